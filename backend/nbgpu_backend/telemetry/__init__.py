"""Records of requests and timelines of workers: written without waiting (`recorder`), read as columns
(`frames`), kept for a bounded time (`retention`), counted by key for good (`usage`) and by endpoint for
Prometheus (`tallies`). A kill loses at most the writer's 250 ms."""
