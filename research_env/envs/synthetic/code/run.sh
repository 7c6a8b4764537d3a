mkdir -p artifact
python write.py
