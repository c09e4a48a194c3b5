"""Check what ``fitb demo`` promises, on what it left in the current folder."""

from pathlib import Path

from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

KEYS = ("accuracy", "f1_macro", "f1_weighted", "coverage", "structure")

client = MlflowClient("sqlite:///mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("fitb-demo-mnist").experiment_id])
last = run.data.metrics
print({key: round(value, 3) for key, value in last.items()})
assert last["val_acc"] >= 0.95
assert last["fitb/accuracy"] >= 0.95
assert last["fitb/coverage"] >= 0.85

events = EventAccumulator("fitb-demo/tensorboard/mnist/version_0", size_guidance={"images": 0}).Reload()
steps = [event.step for event in events.Scalars("val_acc")]
assert len(steps) == 5
for key in KEYS:
    assert [event.step for event in events.Scalars(f"fitb/{key}")] == steps, key
    assert sorted(m.step for m in client.get_metric_history(run.info.run_id, f"fitb/{key}")) == steps, key
with_untrained = [0, *steps]
assert [event.step for event in events.Images("fitb/prototypes")] in (steps, with_untrained)  # if there was time
grids = [f.path for f in client.list_artifacts(run.info.run_id, "images") if f.path.endswith(".png")]
shown = sorted(int(path.split("+step+")[1].split("+")[0]) for path in grids if "prototypes" in path)
assert shown in (steps, with_untrained)
assert Path("fitb-demo/mnist.png").stat().st_size > 10_000
print("the demo keeps its promises")
