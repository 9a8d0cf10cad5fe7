package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/farcall/farcall/api/farcall/admin/v1"
	catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"
	policyv1 "github.com/farcall/farcall/api/farcall/policy/v1"
	storev1 "github.com/farcall/farcall/api/farcall/store/v1"
)

// unanswered is how long ago a registry of a stale cluster was last read for it to be part of the
// reason.
const unanswered = 3 * time.Second

// clusterTable writes the clusters, their registries, and a line for each thing that a person
// has done or may have to do something about.
func clusterTable(w io.Writer, list *adminv1.ListClustersResponse, cordons []*policyv1.Cordon) error {
	now := time.Now()
	var clusters, registries [][]string
	var troubles []string
	for _, k := range list.GetClusters() {
		ok := 0
		for _, r := range k.GetRegistries() {
			if r.GetState() == storev1.RegistryStatus_OK {
				ok++
			}
			registries = append(registries, registryRow(k, r, now))
			for _, f := range registryTroubles(k, r, now) {
				troubles = append(troubles, f.Text)
			}
			if n := r.GetHeld(); n > 0 {
				troubles = append(troubles, fmt.Sprintf("%s no longer lists %s, which the guard does not believe yet: they stay until they return, are released, or their hold is over; farcall get holds lists them", registryName(k, r), count(n, "instance")))
			}
		}
		clusters = append(clusters, []string{
			k.GetName(), stateWord(k.GetState()), age(k.GetAge()),
			strconv.FormatUint(k.GetServices(), 10), strconv.FormatUint(k.GetInstances(), 10),
			locality(k.GetLocality()), k.GetOwner(), strconv.FormatUint(k.GetEpoch(), 10),
			fmt.Sprintf("%d/%d", ok, len(k.GetRegistries())),
		})
	}
	for _, k := range cordons {
		if !over(k, now) {
			troubles = append(troubles, k.GetCluster()+": "+cordonLine(k, now))
		}
	}
	err := writeTable(w, []string{"CLUSTER", "STATE", "AGE", "SERVICES", "INSTANCES", "LOCALITY", "OWNER", "EPOCH", "REGISTRIES"}, clusters)
	if err != nil {
		return err
	}
	if len(registries) > 0 {
		fmt.Fprintln(w)
		if err := writeTable(w, []string{
			"CLUSTER", "REGISTRY", "STATE", "LAST-SUCCESS", "SERVICES", "INSTANCES", "REVISION", "HELD", "SET-ASIDE", "SHADOWED", "REPORTER",
		}, registries); err != nil {
			return err
		}
	}
	writeLines(w, troubles)
	return nil
}

func registryRow(k *adminv1.Cluster, r *storev1.RegistryStatus, now time.Time) []string {
	return []string{
		k.GetName(), r.GetName(), r.GetState().String(), since(r.GetLastSuccess(), now),
		strconv.FormatUint(r.GetServices(), 10), strconv.FormatUint(r.GetInstances(), 10), r.GetRevision(),
		strconv.FormatUint(r.GetHeld(), 10), strconv.FormatUint(r.GetSetAside(), 10),
		strconv.FormatUint(r.GetShadowed(), 10), r.GetReporter(),
	}
}

// registryTroubles says in one line each what is wrong with a registry: whose it is, since when,
// what it says, and what stays true meanwhile.
func registryTroubles(k *adminv1.Cluster, r *storev1.RegistryStatus, now time.Time) (found []finding) {
	who := registryName(k, r)
	add := func(level, do, format string, args ...any) {
		found = append(found, finding{level, who + " " + fmt.Sprintf(format, args...), do})
	}
	switch r.GetState() {
	case storev1.RegistryStatus_FAILED:
		add(levelFail, "see to it that the registry answers whoever reads it", "cannot be read since %s: %s; %s", since(r.GetSince(), now), r.GetLastError(), stays(r))
	case storev1.RegistryStatus_PENDING:
		add(levelWarn, "wait for it", "is being read for the first time since %s; %s", since(r.GetSince(), now), stays(r))
	case storev1.RegistryStatus_OK:
		last := r.GetLastSuccess()
		if k.GetState() == catalogv1.ClusterState_STALE && (last == nil || now.Sub(last.AsTime()) > unanswered) {
			add(levelFail, "see to it that the registry answers, and that somebody reads it", "has said nothing for %s: either it does not answer, or the cluster's owner is gone; %s", since(last, now), stays(r))
		}
	default:
		add(levelWarn, "use the farcall of the synchronizer's version", "is in state %s, which this farcall does not know: %s", r.GetState(), r.GetLastError())
	}
	if n := r.GetSetAside(); n > 0 {
		add(levelWarn, "correct it in the registry", "has %s that cannot be used: %s", count(n, "record"), r.GetLastSetAside())
	}
	return found
}

func registryName(k *adminv1.Cluster, r *storev1.RegistryStatus) string {
	who := k.GetName() + ": " + r.GetName()
	if r.GetReporter() != "" {
		who += " (reported by " + r.GetReporter() + ")"
	}
	return who
}

// stays says what is listed of a registry that cannot be read.
func stays(r *storev1.RegistryStatus) string {
	switch {
	case r.GetInstances() > 0:
		return "its last list of " + count(r.GetInstances(), "instance") + " stays"
	case r.GetLastSuccess() == nil:
		return "what it lists is unknown"
	}
	return "its last list, an empty one, stays"
}

// since writes how long ago something was, by this machine's clock; "-" where nobody can tell.
func since(at *timestamppb.Timestamp, now time.Time) string {
	if at == nil {
		return "-"
	}
	return age(durationpb.New(now.Sub(at.AsTime())))
}

func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
