"""The node part put together: the runtime, the pod network with its Services and DNS, and the agent, in one process.

    runtime ── asks `Network` for addresses ──▶ pod network ──▶ datapath (eBPF) ◀── Services
       ▲                                                                              ▲
       └── CRI on run/containerd.sock ── agent ── API server ─────────────────────────┘── DNS

Closing leaves containers, links and programs at work; `remove` takes them all away.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from havre.api.meta import GVK, Obj
from havre.app.config import Config, default_address
from havre.app.errors import StartFailed
from havre.kit.supervision import kept_running
from havre.machinery.api import Ref

if TYPE_CHECKING:
    from havre.machinery.client import HttpApi
    from havre.node.agent.agent import Agent
    from havre.node.network.datapath import Datapath
    from havre.node.network.pods import PodNetwork
    from havre.node.runtime.serve import Runtime

LONGEST_PATH = 4096  # bytes, PATH_MAX
SERVICE_ACCOUNT = GVK("", "v1", "ServiceAccount")


@asynccontextmanager
async def runtime(config: Config) -> AsyncIterator[Path]:
    """The runtime with its network and registry; yields the CRI socket. Raises StartFailed."""
    async with AsyncExitStack() as stack:
        await _serving(config, stack)
        yield config.run_dir / "containerd.sock"


@asynccontextmanager
async def node(config: Config) -> AsyncIterator[str]:
    """Everything of the machine; yields a line that says where it answers. Raises StartFailed."""
    async with AsyncExitStack() as stack:
        machine = await _serving(config, stack)
        address = config.node_address or default_address(config.gateway)
        await _network_services(config, address, machine, stack)
        await _agent(config, address, stack)
        yield f"{config.node_name} at {address}, CRI at {config.run_dir / 'containerd.sock'}"


async def remove(config: Config) -> None:
    """Take away every container, mount, link, table, program and cgroup of the instance; images and data stay.

    Works on what is there, whatever has made it. Raises StartFailed.
    """
    machine = await _Machine.open(config)
    await machine.runtime.destroy()
    await machine.network.destroy()
    await machine.datapath.destroy()
    await asyncio.to_thread(_remove_rest, config)
    os.close(machine.lock)


def _remove_rest(config: Config) -> None:
    """What pods had besides containers: volumes in memory go, those on the disk stay with the data."""
    from havre.node import mounts
    from havre.node.agent.cgroups import Cgroups

    for point in mounts.below(config.data_dir / "agent"):
        mounts.unmount(point)
    Cgroups(config.instance).destroy()
    shutil.rmtree(config.run_dir)


@dataclass(frozen=True, slots=True)
class _Machine:
    """Runtime above, network below; each finds what an earlier process has left."""

    datapath: Datapath
    network: PodNetwork
    runtime: Runtime
    lock: int  # of the run directory

    @classmethod
    async def open(cls, config: Config) -> _Machine:
        """Raises StartFailed; nothing stays open then."""
        if os.geteuid() != 0:
            raise StartFailed("start a node: only root may make containers and networks; try again with sudo")
        from havre.node.network.errors import NetworkError
        from havre.node.runtime.errors import RuntimeFault

        try:
            async with AsyncExitStack() as failed:
                lock = await asyncio.to_thread(claimed, config.run_dir, config.data_dir)
                failed.callback(os.close, lock)
                machine = await cls._open(config, lock)
                failed.pop_all()
        except (RuntimeFault, NetworkError, ImportError) as e:  # ImportError: a library of Debian's is missing
            raise StartFailed(str(e)) from e
        except OSError as e:
            raise StartFailed(f"start a node: {e.strerror or e}") from e
        return machine

    @classmethod
    async def _open(cls, config: Config, lock: int) -> _Machine:
        from havre.node.network.datapath import Datapath
        from havre.node.network.pods import PodNetwork
        from havre.node.runtime.serve import Config as RuntimeConfig
        from havre.node.runtime.serve import serve

        datapath = Datapath(config.instance, config.run_dir)
        network = PodNetwork(
            config.instance,
            _network(config.pod_cidr),
            config.run_dir,
            datapath=datapath,
            services=_network(config.service_cidr),
        )
        settings = RuntimeConfig(
            config.data_dir / "runtime",
            config.run_dir,
            instance=config.instance,
            pod_cidr=config.pod_cidr,
            registry_hosts=config.registry_hosts,
        )
        async with AsyncExitStack() as failed:
            await datapath.open()
            failed.callback(datapath.close)
            await network.open()
            failed.push_async_callback(network.close)
            started = await serve(settings, network)
            failed.pop_all()
        return cls(datapath, network, started, lock)

    async def close(self) -> None:
        await self.runtime.close()
        await self.network.close()
        self.datapath.close()
        os.close(self.lock)


def claimed(run: Path, data: Path) -> int:
    """The lock of a run directory, for one data directory. Taken before anything is looked at: to an instance with
    another data directory, all pods whose links and namespaces are in there would be nobody's, and removed.

    Raises Precondition."""
    from havre.node.runtime.errors import Precondition
    from havre.node.runtime.serve import claim

    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = claim(run / "node.lock")
    owner = os.pread(lock, LONGEST_PATH, 0)
    if owner and owner != os.fsencode(data):
        os.close(lock)
        raise Precondition(
            f"{run} holds what the instance of {os.fsdecode(owner)} has made; take that down first, "
            "or choose another --run-dir"
        )
    os.pwrite(lock, os.fsencode(data), 0)
    return lock


async def _serving(config: Config, stack: AsyncExitStack) -> _Machine:
    """A machine and its registry, closed by `stack`."""
    from havre.node.runtime import registry

    machine = await _Machine.open(config)
    stack.push_async_callback(machine.close)
    try:
        server = await registry.serve(machine.runtime.images, machine.runtime.content, port=config.registry_port)
    except OSError as e:
        raise StartFailed(f"{e.strerror or e}; stop what listens there, or choose another --registry-port") from e
    stack.push_async_callback(server.close)
    return machine


async def _network_services(config: Config, address: str, machine: _Machine, stack: AsyncExitStack) -> None:
    """Services and the cluster DNS, followed as long as `stack` is open; returns when questions are answered."""
    from havre.node.network import dns, services
    from havre.node.network.uplinks import Uplinks

    network = machine.network
    api = await _api(config.network_kubeconfig, "havre-network", stack)
    answering = asyncio.Event()
    settings = dns.Config(
        network.gateway,
        network.cidr,
        _network(config.service_cidr),
        service_ip=config.cluster_dns,
        port=config.dns_port,
    )
    uplinks = Uplinks(config.instance, machine.datapath)
    nodes = (address, config.gateway)
    own = (config.api_port, config.agent_port, config.dns_port, config.registry_port)
    works: dict[str, Callable[[], Awaitable[None]]] = {
        "uplinks": uplinks.run,
        "services": partial(services.run, api, machine.datapath, nodes, network, uplinks, own),
        "dns": partial(dns.run, api, settings, started=answering),
    }
    await stack.enter_async_context(kept_running(works))
    await answering.wait()


async def _agent(config: Config, address: str, stack: AsyncExitStack) -> None:
    """The agent and its endpoint, as long as `stack` is open; returns when the node has registered itself."""
    from havre.node.agent.agent import Agent
    from havre.node.agent.agent import Config as AgentConfig

    api = await _api(config.node_kubeconfig, "havre-agent", stack)
    settings = AgentConfig(
        node_name=config.node_name,
        node_ip=address,
        instance=config.instance,
        data=config.data_dir / "agent",
        run=config.run_dir / "agent",
        pod_logs=config.data_dir / "logs",
        cluster_dns=config.cluster_dns,
        endpoint_port=config.agent_port,
        pod_cidr=config.pod_cidr,
    )

    async def request_token(namespace: str, account: str, spec: Obj) -> Obj:
        question = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return await api.ask(Ref(SERVICE_ACCOUNT, namespace, account), "token", question)

    agent = Agent(settings, api, config.run_dir / "containerd.sock", tokens=request_token)
    await _endpoint(config, address, agent, api, stack)
    await stack.enter_async_context(kept_running({"agent": agent.run}))


async def _endpoint(config: Config, address: str, agent: Agent, api: HttpApi, stack: AsyncExitStack) -> None:
    """Where the API server asks for logs, exec, port-forward and figures."""
    from havre.node.agent import endpoint as endpoints
    from havre.node.agent.reviews import Reviews
    from havre.node.agent.stats import Observer
    from havre.node.agent.streams import CriStreams
    from havre.wire.grpc.channel import Channel

    channel = Channel(config.run_dir / "containerd.sock")
    stack.callback(channel.close)
    reviews = Reviews(api, config.node_name)
    endpoint = endpoints.Endpoint(
        config.node_name,
        agent.pods,
        agent.runtime,
        CriStreams(channel),
        Observer(channel, config.data_dir),
        reviews.authorize,
        reviews.authenticate,
    )
    stack.push_async_callback(endpoint.close)
    pki = config.data_dir / "control" / "pki"
    try:
        server = await endpoints.serve(
            endpoint,
            host=address,
            port=config.agent_port,
            certificate=pki / "node.crt",
            key=pki / "node.key",
            client_ca=pki / "ca.crt",
        )
    except OSError as e:
        raise StartFailed(f"{e.strerror or e}; stop what listens there, or choose another --agent-port") from e
    stack.push_async_callback(server.close)


def _network(cidr: str) -> IPv4Network:
    network = ip_network(cidr)
    assert isinstance(network, IPv4Network)  # checked where the configuration was read
    return network


async def _api(kubeconfig: Path, agent: str, stack: AsyncExitStack) -> HttpApi:
    from havre.machinery import kubeconfig as kubeconfigs
    from havre.machinery.client import HttpApi

    try:
        connection = await asyncio.to_thread(kubeconfigs.load, kubeconfig)
    except kubeconfigs.KubeconfigError as e:
        raise StartFailed(f"{e}; start the control part first: it writes this file") from e
    return await stack.enter_async_context(HttpApi(connection, user_agent=agent))
