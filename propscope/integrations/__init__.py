"""`monitor` inside trainers: `lightning`, `transformers` and `accelerate`, each imported only by itself."""
