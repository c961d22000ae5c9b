"""The sentence encoder: a small pretrained model that says how alike two texts are."""
