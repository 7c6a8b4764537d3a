python write.py
