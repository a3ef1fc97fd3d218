"""What a model does on real text: activity of neurons, predictors of it, an order that suits flash."""
