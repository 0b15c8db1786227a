"""A page over a bundle: a picture before and after a saved perturbation, and its certificate, without torch.

`python -B -m serve.space` runs it in a bundle's folder; a Space of the Hub is a bundle with `app.py` beside it. It
needs the packages of `serve/requirements-space.txt`.
"""
