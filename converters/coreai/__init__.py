"""Core AI models."""
