"""Face verification: lists of pairs and templates, their scores, and the command that judges a model by them."""
