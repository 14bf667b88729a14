package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/testing"

	kubeovnv1 "github.com/kubeovn/kube-ovn/pkg/apis/kubeovn/v1"
	networksfake "github.com/kubeovn/kube-ovn/pkg/client/clientset/versioned/fake"
	"github.com/kubeovn/kube-ovn/pkg/util"
)

// The pod that the daemon runs in: it writes there why it failed.
const (
	podNamespace = "kube-system"
	podName      = "kube-ovn-cni"
)

// What the daemon's labels of a node are called, after the network's name.
const (
	labelReady     = ".provider-network.kubernetes.io/ready"
	labelInterface = ".provider-network.kubernetes.io/interface"
	labelExclude   = ".provider-network.kubernetes.io/exclude"
)

// node is what one says of the node to the program.
type node struct {
	name, address, pods, gateway string
}

// cluster stands for the API server, with one node.
type cluster struct {
	node     string
	kube     *kubefake.Clientset
	networks *networksfake.Clientset
}

func newCluster(node node) (*cluster, error) {
	// A node without any label keeps the daemon's when a network is deleted, and so tells nothing of
	// it. One with the annotation ovn.kubernetes.io/ip_address would have iptables and ipset run.
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:        node.name,
		Labels:      map[string]string{corev1.LabelHostname: node.name},
		Annotations: map[string]string{util.GatewayAnnotation: node.gateway},
	}}
	object.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: node.address},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: podNamespace, Name: podName},
		Spec:       corev1.PodSpec{NodeName: node.name},
	}
	kube := kubefake.NewClientset(object, pod)
	kube.PrependReactor("patch", "nodes", tellLabels)
	networks := networksfake.NewSimpleClientset()
	if node.pods != "" {
		subnet := &kubeovnv1.Subnet{
			ObjectMeta: metav1.ObjectMeta{Name: "ovn-default"},
			Spec: kubeovnv1.SubnetSpec{
				Vpc: util.DefaultVpc, CIDRBlock: node.pods, Provider: util.OvnProvider,
			},
		}
		subnet.Status.Validated("", "")
		if err := networks.Tracker().Add(subnet); err != nil {
			return nil, err
		}
	}
	return &cluster{node: node.name, kube: kube, networks: networks}, nil
}

// tellLabels tells what the daemon says of a network by the labels of its node. It says so whenever
// it is done, also if that changes no label.
func tellLabels(action testing.Action) (bool, runtime.Object, error) {
	patch, isPatch := action.(testing.PatchAction)
	if !isPatch {
		return false, nil, nil
	}
	var change struct {
		Metadata struct{ Labels map[string]*string }
	}
	if err := json.Unmarshal(patch.GetPatch(), &change); err != nil {
		return false, nil, err
	}
	for key, ready := range change.Metadata.Labels {
		network, found := strings.CutSuffix(key, labelReady)
		if !found {
			continue
		}
		nic := change.Metadata.Labels[network+labelInterface]
		exclude, isDecided := change.Metadata.Labels[network+labelExclude]
		switch {
		case ready != nil && nic != nil:
			tell("ready %s %s", network, *nic)
		case exclude != nil:
			tell("excluding %s", network)
		case isDecided:
			tell("deleted %s", network)
		default:
			// Whether the node is excluded is left as it was.
			tell("failed %s", network)
		}
	}
	return false, nil, nil
}

// do carries out a command.
func (c *cluster) do(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("no such command")
	}
	ctx, networks := context.Background(), c.networks.KubeovnV1().ProviderNetworks()
	verb, name, rest := words[0], words[1], words[2:]
	switch {
	case verb == "create" && len(rest) > 0:
		network := &kubeovnv1.ProviderNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: kubeovnv1.ProviderNetworkSpec{
				DefaultInterface: rest[0],
				ExchangeLinkName: slices.Contains(rest[1:], "exchange"),
			},
		}
		_, err := networks.Create(ctx, network, metav1.CreateOptions{})
		return err
	case verb == "delete":
		return networks.Delete(ctx, name, metav1.DeleteOptions{})
	}
	found, err := networks.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	network := found.DeepCopy()
	switch {
	case verb == "custom" && len(rest) == 1:
		network.Spec.CustomInterfaces = []kubeovnv1.CustomInterface{
			{Interface: rest[0], Nodes: []string{c.node}},
		}
	case verb == "touch":
		network.Status.Ready = true
		network.Status.ReadyNodes = append(network.Status.ReadyNodes, c.node)
	case verb == "exclude":
		network.Spec.ExcludeNodes = []string{c.node}
	case verb == "include":
		network.Spec.ExcludeNodes = nil
	default:
		return fmt.Errorf("no such command")
	}
	_, err = networks.Update(ctx, network, metav1.UpdateOptions{})
	return err
}

// awaitWatch returns once the daemon hears of networks that are made from now on. A fake clientset
// has no resource versions: what is made between an informer's list and its watch is never told.
func (c *cluster) awaitWatch() {
	isWatch := func(action testing.Action) bool {
		return action.Matches("watch", "provider-networks")
	}
	for !slices.ContainsFunc(c.networks.Actions(), isWatch) {
		time.Sleep(time.Millisecond)
	}
}
