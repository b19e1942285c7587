"""How a call is refused: a gRPC status (google.rpc.Code) and a text."""

import grpc


class CallError(Exception):
    """Ends the call with `code`; raised below the gRPC edge, turned into a status in one place."""

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN


class InvalidArgumentError(CallError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(CallError):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(CallError):
    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPreconditionError(CallError):
    code = grpc.StatusCode.FAILED_PRECONDITION
