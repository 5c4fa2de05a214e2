"""Reconcilers: desired state in the store, observed state from the provider, actions between.

`core.Core` composes everything and adopts what an earlier backend left running. `endpoints.Endpoints` is
the directory and the verbs on it (deploy, change, stop, start, delete). `endpoint.EndpointControl` keeps
one endpoint's workers at the number that `domain.scaling.decide` names; it is woken by every arrival,
completion and change of a worker, and acts in tasks. `worker.WorkerControl` is the life of one worker: an
intent row, the launch, readiness, serving, its end, each a transaction with its event.

`sites.Sites` are the places where things run, this machine and own servers (`hosts.Hosts`), each with its
provider. `pods.Pods` and `pod.PodControl` are the same for pods (PODS.md); `pod_agent.PodAgent` speaks to what runs
inside of one.
"""
