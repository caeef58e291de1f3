"""Where tasks are kept. Each member implements ``base.Backend`` and knows nothing of the others."""
