"""A stand-in for Google Cloud Tasks, which has no emulator: the real gRPC API, durable in one SQLite file.

HTTP targets only. Not imitated: IAM and OIDC tokens (kept on the task, not sent), the throttling of a whole
queue on 429/503, App Engine targets, UpdateQueue, RunTask and the batch calls (UNIMPLEMENTED).
"""
