"""The storage backends. Each one implements ``base.Backend`` and is independent of the others."""
