"""The text side of generation: tokenizer, chat template, stop strings, the loop."""
