package keys

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"

	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
)

// Reads gives a fingerprint of all that this version can read of a store: the kinds of keys, the
// formats of values, and the messages in them. Two versions with the same one read the same; two with
// different ones may each miss something that the other knows. It says nothing of which is newer.
func Reads() string { return reads() }

var reads = sync.OnceValue(func() string {
	sum := sha256.New()
	for k := Store; k <= last; k++ {
		sum.Write([]byte(k.String() + "\n"))
	}
	sum.Write([]byte{formatPlain, formatZstd})
	for _, file := range []protoreflect.FileDescriptor{
		catalogv1.File_farcall_catalog_v1_catalog_proto, policyv1.File_farcall_policy_v1_policy_proto, storev1.File_farcall_store_v1_store_proto,
	} {
		// A descriptor is plain data, and can be encoded.
		b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(protodesc.ToFileDescriptorProto(file))
		sum.Write(b)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
})
