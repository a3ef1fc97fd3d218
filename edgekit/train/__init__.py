"""Training, which needs `edgekit[train]` (torch, transformers); imported only by who asks for it."""
