"""What a process of its own does in the tests of judges: it can be imported there, which a test module cannot."""

import torch

from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.callback.judge import RunJudge
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


def learn_apart(rank, world_size, folder):
    """Runs in which the second process reads no batch, or gives its judge up: early, or between probe and epoch end."""
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size, init_method=f"file://{folder}/init")
    learned = {}
    for case in ("no batch", "given up", "given up later"):
        judge = RunJudge("centroid", None, ErrorPolicy("raise"))
        judge.check((3, 12, 10), 4)
        if rank == 0 or case == "given up later":
            judge.stream(*some(), epoch=0)
        elif case == "given up":
            judge.give_up()
        found = [judge.present(epoch=0)]
        if rank == 1 and case == "given up later":
            judge.give_up()
        for epoch in range(2):
            judge.epoch_ends(epoch)
            found.append(judge.present(epoch=epoch))
        learned[case] = [None if each is None else each.counts.tolist() for each in found]
    torch.save(learned, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
