package catalog

import catalogv1 "github.com/farcall/farcall/api/farcall/catalog/v1"

// Proto gives the instance as every API and the store write it.
func (i *Instance) Proto() *catalogv1.Instance {
	return &catalogv1.Instance{
		Cluster:          i.Cluster,
		Namespace:        i.Namespace,
		Service:          i.Service,
		Id:               i.Instance,
		Node:             i.Node,
		Locality:         i.Locality.Proto(),
		Address:          i.Address,
		Port:             uint32(max(i.Port, 0)),
		Relay:            i.Relay,
		Weight:           i.Weight,
		Health:           catalogv1.Health(i.Health),
		Metadata:         i.Metadata,
		Registry:         i.Registry,
		RegistryRevision: i.Revision,
	}
}

// InstanceFromProto is the inverse of Instance.Proto. An unknown health, from a newer writer,
// reads as Unhealthy: better not called than called against its registry's word.
func InstanceFromProto(p *catalogv1.Instance) *Instance {
	h, _ := HealthFromProto(p.GetHealth())
	return &Instance{
		ID: ID{
			Cluster:  p.GetCluster(),
			Name:     Name{Namespace: p.GetNamespace(), Service: p.GetService()},
			Instance: p.GetId(),
		},
		Node:     p.GetNode(),
		Locality: LocalityFromProto(p.GetLocality()),
		Address:  p.GetAddress(),
		Port:     int(p.GetPort()),
		Relay:    p.GetRelay(),
		Weight:   p.GetWeight(),
		Health:   h,
		Metadata: p.GetMetadata(),
		Registry: p.GetRegistry(),
		Revision: p.GetRegistryRevision(),
	}
}

// HealthFromProto reads a health, and reports whether it is known. One that is not, from a newer writer,
// reads as Unhealthy.
func HealthFromProto(h catalogv1.Health) (health Health, known bool) {
	if h < 0 || int(h) >= len(healthWords) {
		return Unhealthy, false
	}
	return Health(h), true
}

// SaysMore reports whether a record says anything that InstanceFromProto does not take over, because
// a newer version wrote it: a field, or a health, that is not known.
func SaysMore(p *catalogv1.Instance) bool {
	_, known := HealthFromProto(p.GetHealth())
	return !known || len(p.ProtoReflect().GetUnknown()) > 0 || len(p.GetLocality().ProtoReflect().GetUnknown()) > 0
}

// Proto gives the locality, or nil where nothing is known.
func (l Locality) Proto() *catalogv1.Locality {
	if l == (Locality{}) {
		return nil
	}
	return &catalogv1.Locality{Region: l.Region, Zone: l.Zone}
}

// LocalityFromProto is the inverse of Locality.Proto.
func LocalityFromProto(p *catalogv1.Locality) Locality {
	return Locality{Region: p.GetRegion(), Zone: p.GetZone()}
}

// Proto gives the state as the APIs write it.
func (s ClusterState) Proto() catalogv1.ClusterState { return catalogv1.ClusterState(s) }
