"""Decides what runs, where and when it stops; knows nothing of tensors.

`config` reads the search spaces, `plan` turns them into trials, `identity` names a trial by what
decides its numbers, `ledger` remembers what ended, `estimate` and `placement` say what a plan
needs. None of these imports torch, Ray or MLflow, so that listing and planning answer at once.
"""
