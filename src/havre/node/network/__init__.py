"""The network of one machine: addresses and links of pods, Services, names, and the way out.

    pods         PodNetwork: attach and detach a sandbox; restore after a crash; host ports
      addresses  one lease file per sandbox; which address is given next
      links      veth pairs, routes and neighbours, through netlink, in one thread
      sysctls    settings of the kernel, written down before they are changed
      nat        one nftables table: outgoing traffic gets the machine's address
    dns          the cluster's names, from Services, EndpointSlices and Namespaces; UDP and TCP
      records    names and their records, kept up to date object by object (pure)
      forwarder  all other names: the machine's own resolvers, behind a cache

A packet of a pod leaves through its veth; the datapath (BPF) gives it to the other pod or to a Service's backend; what
is for somewhere else takes the host's routes and its source address is replaced. Without the datapath, pods reach
each other by the host's routes, and Services do not work.
"""
