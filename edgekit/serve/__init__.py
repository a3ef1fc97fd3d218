"""The HTTP server: requests, one scheduler for all of them, answers as OpenAI's API gives them."""
