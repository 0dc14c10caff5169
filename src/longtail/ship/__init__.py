"""Taking a trained model elsewhere: other formats, the Hugging Face Hub, a web page."""
