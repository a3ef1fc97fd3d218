"""Recipes: which codec each tensor gets."""

from edgekit.recipe.recipe import Recipe, Rule, load_recipe, preset_names

__all__ = ["Recipe", "Rule", "load_recipe", "preset_names"]
