// Command kube-ovn-node is Kube-OVN's daemon without a cluster: the code that takes a node's NIC,
// as it is released, with fake clientsets in the place of the API server.
//
// It reads commands, one a line, from standard input:
//
//	create NETWORK NIC [exchange]   a ProviderNetwork with this default interface
//	custom NETWORK NIC              the same network has another interface on this node
//	touch NETWORK                   its status is written, as kube-ovn-controller does
//	exclude NETWORK                 this node is excluded from it
//	include NETWORK                 it is no longer
//	delete NETWORK                  it is deleted
//	start                           the daemon starts; what came before, it finds
//
// and writes a line that begins with "kube-ovn-node:" for what the daemon reports:
//
//	started
//	ready NETWORK NIC     the NIC is a port
//	failed NETWORK        an attempt did not succeed; the daemon tries again by itself
//	excluding NETWORK     the NIC is being given back, since the node is excluded
//	deleted NETWORK       the NIC has been given back
//	retry ERROR           why an attempt did not succeed
//
// The end of its input ends it. Kube-OVN's own log goes to standard error; -v=4 has each ovs-vsctl.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/klog/v2"

	networkinformers "github.com/kubeovn/kube-ovn/pkg/client/informers/externalversions"
	"github.com/kubeovn/kube-ovn/pkg/daemon"
	"github.com/kubeovn/kube-ovn/pkg/ovs"
)

// database is where Kube-OVN looks for Open vSwitch's: no option moves it.
const database = "unix:/var/run/openvswitch/db.sock"

// connections is how often the first connection to the database is tried.
const connections = 20

func main() {
	klog.InitFlags(nil)
	var node node
	flag.StringVar(&node.name, "node", "node1", "name of the node")
	flag.StringVar(&node.address, "address", "", "its own address, from which it reaches pods")
	flag.StringVar(&node.pods, "pods", "", "their network: the daemon keeps a route to it")
	flag.StringVar(&node.gateway, "gateway", "", "the gateway to them, behind ovn0")
	flag.Parse()
	if err := run(node); err != nil {
		klog.ErrorS(err, "kube-ovn-node")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
}

func run(node node) error {
	utilruntime.ErrorHandlers = append(utilruntime.ErrorHandlers, tellRetry)
	cluster, err := newCluster(node)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	defer close(stop)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var err error
		if line := strings.TrimSpace(lines.Text()); line == "start" {
			err = start(cluster, stop)
		} else {
			err = cluster.do(strings.Fields(line))
		}
		if err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

// tell writes a line in one piece: the daemon's workers tell of what they do at the same time.
func tell(format string, words ...any) {
	fmt.Printf("kube-ovn-node: "+format+"\n", words...)
}

// tellRetry tells why the daemon will begin anew: it says so nowhere but in its log.
func tellRetry(_ context.Context, err error, message string, _ ...any) {
	if text := strings.TrimSpace(fmt.Sprint(message, " ", err)); strings.Contains(text, "requeuing") {
		tell("retry %q", text)
	}
}

// start runs the daemon's workers, as its main function does once a node has its addresses.
func start(cluster *cluster, stop <-chan struct{}) error {
	config := &daemon.Configuration{
		KubeClient:    cluster.kube,
		KubeOvnClient: cluster.networks,
		NodeName:      cluster.node,
		PodName:       podName,
		PodNamespace:  podNamespace,
		NetworkType:   "geneve",
		ClusterRouter: "ovn-cluster",
		NodeSwitch:    "join",
		// Else it asks for a gateway behind ovn0, which only a whole cluster has.
		EnableNonPrimaryCNI: true,
		// Else it stops the IPsec services of the machine, deletes their keys and flushes xfrm.
		EnableOVNIPSec: true,
	}
	if _, err := daemon.InitOVSBridges(); err != nil {
		return err
	}
	controller, err := newController(config, stop)
	if err != nil {
		return err
	}
	cluster.awaitWatch()
	go controller.Run(stop)
	tell("started")
	return nil
}

// newController connects the daemon with Open vSwitch's database, for which it gives itself a second.
// An emulated machine needs more for the first connection of a process: that one is not the daemon's,
// and one that fails is tried again.
func newController(config *daemon.Configuration, stop <-chan struct{}) (*daemon.Controller, error) {
	first, err := ovs.NewVswitchClient(database, 60, 60)
	if err != nil {
		return nil, err
	}
	first.Close()
	var failed error
	for range connections {
		pods := informers.NewSharedInformerFactory(config.KubeClient, 0)
		nodes := informers.NewSharedInformerFactory(config.KubeClient, 0)
		secrets := informers.NewSharedInformerFactory(config.KubeClient, 0)
		networks := networkinformers.NewSharedInformerFactory(config.KubeOvnClient, 0)
		// The informers of an attempt that fails end with it.
		ended := make(chan struct{})
		controller, err := daemon.NewController(config, ended, pods, nodes, secrets, networks)
		if err == nil {
			go func() { <-stop; close(ended) }()
			return controller, nil
		}
		close(ended)
		failed = err
	}
	return nil, failed
}
