"""Ranks: who this process is, how it finds the others, and what has to be true of DeepSpeed before it starts."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as dist

_FOREIGN = {  # launchers other than DeepSpeed's name the same things otherwise
    "RANK": ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "WORLD_SIZE": ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "LOCAL_RANK": ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
}


@dataclass(frozen=True)
class Ranks:
    """This process among all: ``rank`` of ``world``, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def start() -> Ranks:
    """Join the process group (DeepSpeed's, over NCCL or gloo), a group of one where no launcher started us."""
    _environment()
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if get_accelerator().device_name() == "cpu":
        # DeepSpeed would compile a shared-memory all-reduce that training never calls: 45 s, and a crash without a compiler.
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def stop() -> None:
    """Leave the process group, after everybody has arrived here."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _environment() -> None:
    for name, others in _FOREIGN.items():
        found = next((os.environ[o] for o in others if o in os.environ), None)
        if name not in os.environ and found is not None and "MASTER_ADDR" in os.environ:
            os.environ[name] = found
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("LOCAL_RANK", "0")
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        os.environ["MASTER_PORT"] = str(_free_port())
    os.environ.setdefault("MASTER_PORT", "29500")
    if os.environ["WORLD_SIZE"] != "1":
        _name_interface(os.environ["MASTER_ADDR"])


def _name_interface(master: str) -> None:
    """gloo advertises 127.0.0.1 unless told which interface leads to the others; other hosts then wait for ever."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((master, 9))
        except OSError:
            return
        local = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == local for a in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
