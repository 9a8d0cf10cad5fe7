package face

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "github.com/farcall/farcall/api/dapr/proto/common/v1"
	runtimev1 "github.com/farcall/farcall/api/dapr/proto/runtime/v1"
	"github.com/farcall/farcall/internal/testkit"
)

// TestLikeness says what a daprd does with odd headers, verbs and paths, and so does an agent; the
// real daprd is asked in TestRealDifferential.
func TestLikeness(t *testing.T) {
	seen := make(chan *http.Request, 1)
	bothLegs(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("Grpc-Status", "3")
		w.Header().Set("X-Some-Bin", "aGVsbG8=")
		w.WriteHeader(http.StatusCreated)
	}, func(t *testing.T, a *callerAgent) {
		got := call(t, "patch", a.url+"/v1.0/invoke/cart/method/Products(1)/100%25/a%2520b", nil,
			"X-Some-Bin", "aGVsbG8=", "x-other-BIN", "aGVsbG8=", "grpc-mine", "1", "Authorization", "Bearer x")
		r := <-seen
		if r.Method != http.MethodPatch || r.RequestURI != "/Products(1)/100%25/a%2520b" {
			t.Errorf("the application saw %s %s", r.Method, r.RequestURI)
		}
		wantHeader(t, r.Header, "X-Some-Bin", "", "X-Other-Bin", "", "Grpc-Mine", "", "Dapr-Grpc-Mine", "1", "Authorization", "Bearer x")
		want(t, got, http.StatusCreated, "")
		wantHeader(t, got.Header, "Grpc-Status", "", "Dapr-Grpc-Status", "3", "X-Some-Bin", "")

		var header metadata.MD
		_, err := a.grpc.InvokeService(testkit.Context(t), &runtimev1.InvokeServiceRequest{Id: "cart", Message: &commonv1.InvokeRequest{
			Method: "a%20b/100%", ContentType: "text/plain", Data: &anypb.Any{TypeUrl: "type.googleapis.com/example", Value: []byte("x")},
			HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_PUT},
		}}, grpc.Header(&header))
		r = <-seen
		// What is no valid escape as a whole stands for itself.
		if r.RequestURI != "/a%2520b/100%25" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("the application saw %s of %s", r.RequestURI, r.Header.Get("Content-Type"))
		}
		if err != nil || strings.Join(header["dapr-http-status"], "") != "201" {
			t.Errorf("got %v, %v", header, err)
		}
	})
}
