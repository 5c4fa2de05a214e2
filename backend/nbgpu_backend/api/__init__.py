"""The HTTP surfaces, thin: they translate between wire formats and the layers below.

`app.build` stacks them: a plain ASGI router first, which hands the data path to the gateway before FastAPI
is reached, then FastAPI with the control routes. Control routes fail in problem documents (RFC 9457),
OpenAI routes in OpenAI's shape. Everything wants the token; the data path takes keys of endpoints as well,
and `/metrics` the token as a password.
"""
