package invoke

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reasons, one word each, as they stand in answers and metrics. A Router may use further ones.
const (
	ReasonNoConnection   = "NO_CONNECTION"   // certainly not executed: nobody there to ask
	ReasonAppDown        = "APP_DOWN"        // certainly not executed: the application does not listen
	ReasonNotDispatched  = "NOT_DISPATCHED"  // certainly not executed
	ReasonDraining       = "DRAINING"        // certainly not executed: the agent is going
	ReasonUnknownTarget  = "UNKNOWN_TARGET"  // certainly not executed: no such instance there
	ReasonOutcomeUnknown = "OUTCOME_UNKNOWN" // may have been executed
	ReasonNoInstance     = "NO_INSTANCE"
	ReasonNotFound       = "NOT_FOUND"
	ReasonDeadline       = "DEADLINE_EXCEEDED"
	ReasonCancelled      = "CANCELLED"
	ReasonInvalid        = "INVALID_ARGUMENT"
	ReasonDenied         = "PERMISSION_DENIED"
	ReasonNoToken        = "UNAUTHENTICATED" // the token that was shown is not one, or none was
	ReasonTooLarge       = "TOO_LARGE"
	ReasonSecondHop      = "SECOND_HOP"
	ReasonUnreachable    = "UNREACHABLE"
	ReasonUnsupported    = "UNSUPPORTED"
	ReasonBroadcast      = "BROADCAST_FAILED"  // too few targets of a broadcast succeeded
	ReasonApplication    = "APPLICATION_ERROR" // a broadcast's target answered that it failed
)

// ErrorDomain is the domain of our google.rpc.ErrorInfo.
const ErrorDomain = "farcall.io"

// Error says why a call has no answer from an application. Code Unavailable is a promise: the
// call was certainly not executed, and may be sent elsewhere.
type Error struct {
	Code    codes.Code
	Reason  string
	Message string
}

// Error gives reason and message.
func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// GRPCStatus makes the error a gRPC status with an ErrorInfo that carries the reason.
func (e *Error) GRPCStatus() *status.Status {
	s := status.New(e.Code, e.Message)
	if d, err := s.WithDetails(&errdetails.ErrorInfo{Reason: e.Reason, Domain: ErrorDomain}); err == nil {
		return d
	}
	return s
}

// NotExecuted reports whether the call was certainly not executed and may go elsewhere.
func (e *Error) NotExecuted() bool { return e.Code == codes.Unavailable }

// OutcomeUnknown reports whether the call may have been executed, or not.
func (e *Error) OutcomeUnknown() bool { return e.Reason == ReasonOutcomeUnknown }

// HTTPStatus gives the fixed HTTP status for the error (design.md "Codes").
func (e *Error) HTTPStatus() int {
	switch e.Code {
	case codes.Internal:
		return http.StatusBadGateway
	case codes.ResourceExhausted:
		return http.StatusRequestEntityTooLarge
	default:
		return HTTPFromGRPC(int(e.Code))
	}
}

// Errorf makes an Error.
func Errorf(c codes.Code, reason, format string, a ...any) *Error {
	return &Error{Code: c, Reason: reason, Message: fmt.Sprintf(format, a...)}
}

// NotDispatched says, for a reason, that the call was certainly not executed.
func NotDispatched(reason, format string, a ...any) *Error {
	return Errorf(codes.Unavailable, reason, format, a...)
}

// OutcomeUnknown says that the call may have been executed.
func OutcomeUnknown(format string, a ...any) *Error {
	return Errorf(codes.Internal, ReasonOutcomeUnknown, format, a...)
}

// Invalid says that the call is malformed and was not sent anywhere.
func Invalid(format string, a ...any) *Error {
	return Errorf(codes.InvalidArgument, ReasonInvalid, format, a...)
}

// FromContext gives the error of a call whose context is done, nil where it is not. A deadline that
// has passed counts although the context has not heard of it yet: the callee may have, and what it
// says of that must not look like anything else.
func FromContext(ctx context.Context) *Error {
	err := ctx.Err()
	if at, ok := ctx.Deadline(); err == nil && ok && !time.Now().Before(at) {
		err = context.DeadlineExceeded
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(codes.DeadlineExceeded, ReasonDeadline, "the call's deadline passed")
	default:
		return Errorf(codes.Canceled, ReasonCancelled, "the caller went away")
	}
}

// AsError gives err as an *Error; one that is none becomes an unknown outcome, the careful
// reading.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return OutcomeUnknown("%v", err)
}

// BodyError says that a call came to a bad end because reading its body failed with err.
func BodyError(ctx context.Context, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if e := FromContext(ctx); e != nil {
		return e
	}
	return Invalid("reading the request's body: %v", err)
}
