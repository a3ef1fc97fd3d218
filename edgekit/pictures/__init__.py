"""Pictures for models that see: read, cut into tiles and patches, encoded, and put into a prompt. Needs Pillow."""
