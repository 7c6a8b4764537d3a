set -e
python train.py
