"""The public models: what crosses HTTP, one file per resource.

Field names are camelCase on the wire and snake_case in Python. Requests refuse unknown keys, so that a
typo is an error; answers of other systems may hold any. `/v2/serverless` has the shape of RunPod's
REST v2 (paths, names, states), and all of our own fields sit in one `nbgpu` object at the top level.
Instants named `…Us` are UTC int64 microseconds, amounts are decimal text in US dollars.
"""
