"""Records of requests and timelines of workers: written without waiting (`recorder`), read as columns
(`frames`), kept for a bounded time (`retention`). A kill loses at most the writer's 250 ms."""
