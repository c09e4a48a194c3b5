"""What a process of its own does in the tests of judges: it can be imported there, which a test module cannot."""

import torch

from fitb_callbacks.scoring.judges.centroid import CentroidJudge


def some(number=40, classes=4, shape=(3, 12, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, *shape, generator=generator), torch.arange(number) % classes


def seen(images, labels, batch_size=7):
    judge = CentroidJudge()
    for start in range(0, len(labels), batch_size):
        judge.update(images[start : start + batch_size], labels[start : start + batch_size])
    return judge


def gather(rank, world_size, folder):
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size, init_method=f"file://{folder}/init")
    images, labels = some()
    judge = seen(images[rank::world_size], labels[rank::world_size])
    torch.save(judge.gathered().state_dict(), f"{folder}/{rank}.pt")
    assert judge.counts.sum() == 20  # not changed
    torch.distributed.destroy_process_group()
