"""The whole story in seconds: data → Tensor → layers → loss → backward → optimizer → certificate → attack → file."""

import math
from pathlib import Path

import numpy as np

import linfengine as le
from linfengine.data import batches, to_pixels
from linfengine.evaluate import evaluate
from linfengine.schedules import learning_rate, p_ramp


def test_a_net_learns_digits_and_its_certificate_holds(tmp_path: Path) -> None:
    digits = le.load_dataset("digits")
    net = le.linf_net((1, 8, 8), 10, width=64, depth=3, mean=digits.mean, std=digits.std)
    optimizer = le.Adam(net.parameters(), lr=0.02)
    rng = np.random.default_rng(0)
    for epoch in range(40):
        net.p = p_ramp(epoch, start=15, end=35)
        optimizer.lr = learning_rate(epoch, 0.02, total=40)
        for pixels, labels in batches(digits.train_images, digits.train_labels, 128, rng):
            loss = le.hinge(net(le.Tensor(pixels)), labels, eps=0.1 * net.lipschitz())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    net.p = math.inf
    pixels, labels = to_pixels(digits.test_images), digits.test_labels
    result = evaluate(net, pixels, labels, "1/20", attack_steps=5)  # raises if an attack breaks a certified sample
    clean, attacked, certified = (result.summary()[name] for name in ("clean", "attacked", "certified"))
    assert 1 >= clean >= attacked >= certified
    assert clean > 0.75
    assert certified > 0.5

    le.save_model(net, tmp_path / "net.safetensors")
    again, _ = le.load_model(tmp_path / "net.safetensors")
    assert (again(pixels).numpy() == net.eval()(pixels).numpy()).all()
