"""From a model reference to a folder with weights.

A reference is a folder, the name of a folder in NBGPU_HOME/models, or `org/name[@revision]` on the
model hub (`library.locate`). A hub model is fetched into the Hugging Face cache layout before its
first worker starts, because engines are silent while they download.

    library.py   what a reference means; weights and context length of a folder
    fetch.py     the child process that talks to the hub; one JSON object a line
    partial.py   one file, resumed where a killed fetch left it
    refusals.py  the hub's errors as code, sentence and next step
    fetcher.py   starts and reads that child on the event loop
    rate.py      a smoothed rate and the seconds left
"""
