package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/safety"
)

// recorder writes one log line a call and tells how it ended. It looks at volume ID, name and the NQN of the publish
// context, never at the rest of a request: secrets are in there.
type recorder struct {
	log   *slog.Logger
	begin func(method string) func(codes.Code, safety.Reason)
}

func (r recorder) record(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	end := r.begin(method)
	resp, err := next(ctx, req)
	code, reason := codes.OK, safety.ReasonOf(err)
	if err != nil {
		code = codeOf(err)
	}
	end(code, reason)

	attrs := []slog.Attr{slog.String("op", method)}
	if v := volumeOf(req, resp); v != "" {
		attrs = append(attrs, slog.String("volume", v))
	}
	if n := nqnOf(req, resp); n != "" {
		attrs = append(attrs, slog.String("nqn", n))
	}
	if reason != "" {
		attrs = append(attrs, slog.String("reason", string(reason)))
	}
	if err != nil {
		attrs = append(attrs, slog.String("err", loggedText(err)))
	}
	r.log.LogAttrs(ctx, level(method, code), "call", attrs...)
	return resp, err
}

// quiet are the methods that are called all the time and whose success is no news.
var quiet = map[string]bool{
	"Probe": true, "GetPluginInfo": true, "GetPluginCapabilities": true, "ControllerGetCapabilities": true,
	"NodeGetCapabilities": true, "NodeGetVolumeStats": true, "GetCapacity": true, "ListVolumes": true, "ControllerGetVolume": true,
}

func level(method string, code codes.Code) slog.Level {
	switch {
	case code == codes.OK && quiet[method]:
		return slog.LevelDebug
	case code == codes.OK:
		return slog.LevelInfo
	case code == codes.Internal || code == codes.Unknown:
		return slog.LevelError
	default:
		return slog.LevelWarn
	}
}

// volumeOf gives the volume ID of a call; for a create that failed the name that was asked for.
func volumeOf(req, resp any) string {
	if r, is := resp.(*csi.CreateVolumeResponse); is && r.GetVolume() != nil {
		return r.GetVolume().GetVolumeId()
	}
	switch r := req.(type) {
	case interface{ GetVolumeId() string }:
		return r.GetVolumeId()
	case interface{ GetName() string }:
		return r.GetName()
	}
	return ""
}

func nqnOf(req, resp any) string {
	for _, m := range []any{resp, req} {
		if c, is := m.(interface{ GetPublishContext() map[string]string }); is && c.GetPublishContext()[PublishNQN] != "" {
			return c.GetPublishContext()[PublishNQN]
		}
	}
	return ""
}

// mapErrors turns what the services return into what gRPC sends, so that they can return plain errors.
func mapErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, newAnswer(err)
	}
	return resp, nil
}

// bound gives a call a deadline whose caller gave none.
func bound(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if _, has := ctx.Deadline(); has {
		return next(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return next(ctx, req)
}

// panicError is a panic of a service. Its text goes to the caller; the stack is only for the log.
type panicError struct {
	method string
	value  any
	stack  []byte
}

// loggedText is what the log says of an error: its text, and the stack of a panic.
func loggedText(err error) string {
	var p *panicError
	if errors.As(err, &p) {
		return err.Error() + "\n" + string(p.stack)
	}
	return err.Error()
}

func (p *panicError) Error() string { return fmt.Sprintf("%s panicked: %v", p.method, p.value) }

// recoverPanic makes a panic an error of that one call: a node driver that dies would leave all others unserved.
func recoverPanic(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (resp any, err error) {
	defer func() {
		if value := recover(); value != nil {
			resp, err = nil, &panicError{method: path.Base(info.FullMethod), value: value, stack: debug.Stack()}
		}
	}()
	return next(ctx, req)
}
