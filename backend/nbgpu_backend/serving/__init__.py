"""The data path: gateway -> one queue per endpoint -> worker -> streamed back chunk by chunk -> one record.

`gateway` is a plain ASGI application in front of FastAPI. It admits a request as a ticket (`queue`),
which waits until a worker makes an offer, sends it there (`upstream`), passes the answer on as it comes
(`stream` counts tokens and strips what was not asked for) and hands one record to the sink, whatever
happened. Jobs come by `job_api` to the endpoint's `board`, whose `assignments` say which worker has which
(JOBS.md). Who asks, and within which limits, is the concern of `auth` and `keys`. What the data path needs
to know of an endpoint is `target.Target`; control implements it.
"""
