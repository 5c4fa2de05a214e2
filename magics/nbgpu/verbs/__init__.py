"""One set of verbs, several faces.

A verb is one annotated function. Its signature is its arguments, its docstring is its help, and
`registry.py` collects them all. Everything else follows from that:

    verbs/*.py ──registry──> verbs.json ──> parsing (argparse), help, completion ──> %gpu
                                      └───> the same parser ────────────────────────> nbgpu (CLI)
        signature ──────────────────────────────────────────────────────────────────> nbgpu.connect().verb()

How a verb moves:

1. A line (`%gpu stop chat`) or words (`nbgpu stop chat`) are parsed against verbs.json alone, by
   `nbgpu.parsing`, into values named as the parameters of the function. Nothing heavy is imported, so
   that `%load_ext nbgpu` is quick and a typo is answered at once.
2. `Client.do(name, **values)` loads the function and calls it. It does no I/O: it returns a `Call`
   (method, path, body, the name of the answer's model in `nbgpu_backend.schema`, streamed or not).
   A verb marked `local` does its work itself and is given a `Context` (client, face, where to print).
   Pods and endpoints share one namespace: what is about either returns the call for an endpoint, and in
   `pod` the one for a pod; the client asks the summary which it is.
3. The client sends the call, starting the backend if none runs, and reads the answer with its model.
4. `call.follow` names what has to be waited for after the answer (`flows.py`: weights on their way, the
   pieces of a streamed answer), `call.view` the rich object that comes back (`results/`).
5. The face shows it: the magic returns it to IPython or stores it under `-o NAME`, the CLI prints its
   text or, with `--json`, its `to_dict()`.

The rules of a signature:

- positional parameters are positional arguments, keyword-only ones are options (`always_on` is
  `--always-on`, and `for_`, whose bare name Python keeps, `--for`); a default makes an argument optional; `bool` is a switch;
- `list[str]` is a comma-separated list (of the kind `words` it may come several times), `dict[str, str]` an option that may come several times (`K=V`);
- `Annotated[…, Arg(help, …)]` holds what a type cannot say: metavar, completion, short flag, and the
  kinds `duration` (30s, 5m, 2h, as int seconds), `fine` (also 0.5s, as float seconds), `cell` (the text of a cell; in the CLI a positional
  argument or standard input), `script` (the text of a cell, which may be missing; in the CLI all words from the first that is no option of ours), `pairs` (positional K=V) and `rest` (engine options: everything after
  `--`, and bare options that clash with none of the verb's own).

A new verb: write the function, decorate it with `@verb(…)`, list its module in `registry.MODULES` and run
`python -m nbgpu.verbs.build`. A test compares verbs.json with the signatures.
"""
