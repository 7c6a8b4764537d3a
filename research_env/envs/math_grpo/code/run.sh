# One core means one thread of XLA too; memory in huge pages saves a third of a small model's time.
export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
exec python "${1:-train.py}"
