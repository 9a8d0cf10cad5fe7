// Sdk is an application of the tests that is written with Dapr's Go SDK and nothing else: as its
// users write theirs, it takes where its sidecar is, and the tokens, from the environment. It has
// no goroutines but the SDK's.
//
//	sdk call [key=value ...]        one invocation for each line of standard input
//	sdk serve http|grpc HOST:PORT   a service to be invoked
//
// The words after call are metadata, or headers, of the invocations. A line is JSON of the type
// call, and so is each answer of the type answer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprgrpc "github.com/dapr/go-sdk/service/grpc"
	daprhttp "github.com/dapr/go-sdk/service/http"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// call says which function of the SDK is called and with what. With neither Data nor Custom it is
// InvokeMethod, with Data InvokeMethodWithContent, with Custom InvokeMethodWithCustomContent.
type call struct {
	App, Method, Verb string
	Data              *string
	Custom            map[string]string
	ContentType       string
	Timeout           time.Duration
}

// answer is what the SDK returned.
type answer struct {
	Data    string
	Failed  bool
	Code    string // of the error, in gRPC's words
	Message string
	Reason  string // what its ErrorInfo says
}

func main() {
	err := errors.New("sdk call | sdk serve http|grpc HOST:PORT")
	switch {
	case len(os.Args) > 1 && os.Args[1] == "call":
		err = calls(os.Args[2:])
	case len(os.Args) == 4 && os.Args[1] == "serve":
		err = serve(os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// calls makes the invocations that it reads.
func calls(with []string) error {
	client.SetLogger(log.New(os.Stderr, "", 0)) // it is standard output otherwise
	// The SDK reads DAPR_GRPC_PORT, or DAPR_GRPC_ENDPOINT, and DAPR_API_TOKEN.
	c, err := client.NewClient()
	if err != nil {
		return err
	}
	defer c.Close()
	md := metadata.MD{}
	for _, w := range with {
		k, v, _ := strings.Cut(w, "=")
		md.Append(k, v)
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var one call
		if err := in.Decode(&one); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(invoke(metadata.NewOutgoingContext(context.Background(), md), c, one)); err != nil {
			return err
		}
	}
}

func invoke(ctx context.Context, c client.Client, in call) answer {
	if in.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, in.Timeout)
		defer cancel()
	}
	var data []byte
	var err error
	switch {
	case in.Data != nil:
		data, err = c.InvokeMethodWithContent(ctx, in.App, in.Method, in.Verb, &client.DataContent{Data: []byte(*in.Data), ContentType: in.ContentType})
	case in.Custom != nil:
		data, err = c.InvokeMethodWithCustomContent(ctx, in.App, in.Method, in.Verb, in.ContentType, in.Custom)
	default:
		data, err = c.InvokeMethod(ctx, in.App, in.Method, in.Verb)
	}
	a := answer{Data: string(data)}
	if err != nil {
		s := status.Convert(err)
		a.Failed, a.Code, a.Message = true, s.Code().String(), s.Message()
		for _, d := range s.Details() {
			if info, ok := d.(interface{ GetReason() string }); ok {
				a.Reason = info.GetReason()
			}
		}
	}
	return a
}

// serve runs a service of two methods: echo says what arrived, fail fails.
func serve(kind, address string) error {
	var s common.Service
	switch kind {
	case "http":
		s = daprhttp.NewService(address)
	case "grpc":
		var err error
		if s, err = daprgrpc.NewService(address); err != nil {
			return err
		}
	default:
		return fmt.Errorf("neither http nor grpc: %s", kind)
	}
	echo := func(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		said := fmt.Sprintf("%s ?%s %s %s x-custom=%s caller=%s", in.Verb, in.QueryString, in.ContentType, in.Data,
			strings.Join(md.Get("x-custom"), ","), strings.Join(md.Get("dapr-caller-app-id"), ","))
		return &common.Content{Data: []byte(said), ContentType: "text/x-sdk"}, nil
	}
	fail := func(context.Context, *common.InvocationEvent) (*common.Content, error) {
		return nil, errors.New("not today")
	}
	if err := s.AddServiceInvocationHandler("/echo", echo); err != nil {
		return err
	}
	if err := s.AddServiceInvocationHandler("/fail", fail); err != nil {
		return err
	}
	return s.Start()
}
