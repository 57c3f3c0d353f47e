"""A table of numbers: the file's own units, steps, mass and copies against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.likelihood import log_likelihood
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.tables import (
    Units,
    covering,
    enough_steps,
    estimate,
    log_density,
    nearest_ratio,
    read_table,
    split_rows,
    total_mass,
)

DOUBLE = {"dtype": torch.float64}
MEAN = torch.tensor([1.7e9, -3.0, 0.02], **DOUBLE)  # seconds since 1970, degrees, metres
FACTOR = torch.tensor([[900.0, 0, 0], [1.5, 2.0, 0], [1e-3, -2e-3, 4e-3]], **DOUBLE)
TRUTH = MultivariateNormal(MEAN, FACTOR @ FACTOR.T)


def draws(n, seed=0):
    """Rows of a Gaussian whose columns have unlike units, far from zero."""
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    return MEAN + noise @ FACTOR.T


def exact_field(units):
    """The field of that Gaussian in standardised units: what a perfect training would end at."""
    covariance = (FACTOR @ FACTOR.T) / units.scale / units.scale[:, None]
    target = Gaussian((MEAN - units.shift) / units.scale, covariance)
    return ExactField(AffinePath(LINEAR), target)


@pytest.fixture(scope="module")
def split():
    return split_rows(draws(2000), 0.25, torch.Generator().manual_seed(1))


# Units


def test_the_log_density_of_the_exact_field_is_that_in_the_units_of_the_file(split):
    x = split.units.standardise(split.held_out)
    found = log_density(exact_field(split.units), x, split.units, 64)
    assert (found - TRUTH.log_prob(split.held_out)).abs().max() < 1e-6


def test_units_come_from_the_training_rows_alone(split):
    assert len(split.train) == 1500 and len(split.held_out) == 500
    x = split.units.standardise(split.train)
    assert torch.allclose(x.mean(0), torch.zeros(3, **DOUBLE), atol=1e-6)
    assert torch.allclose(x.std(0), torch.ones(3, **DOUBLE), atol=1e-6)
    assert split.units.standardise(split.held_out).mean(0).abs().max() > 1e-3
    both = torch.cat([split.train, split.held_out]).sort(0).values
    assert torch.equal(both, draws(2000).sort(0).values)


def test_there_and_back_again(split):
    back = split.units.restore(split.units.standardise(split.held_out))
    assert ((back - split.held_out) / split.units.scale).abs().max() < 1e-6
    assert back.dtype == torch.float64


def test_a_large_shift_does_not_round_away_what_a_network_sees():
    """Seconds since 1970 have steps of 128 in single precision."""
    rows = draws(100)
    units = Units(rows.mean(0), rows.std(0))
    x = units.standardise(rows).float()
    assert torch.allclose(x.double(), (rows - rows.mean(0)) / rows.std(0), atol=1e-6)


def test_the_change_of_units_is_the_one_of_a_density():
    """By finite masses: the same probability in a cell of either grid."""
    units = Units(torch.tensor([5.0], **DOUBLE), torch.tensor([250.0], **DOUBLE))
    field = ExactField(AffinePath(LINEAR), Gaussian(torch.zeros(1, **DOUBLE)))
    rows = torch.linspace(-2000, 2000, 801, **DOUBLE)[:, None]
    density = log_density(field, units.standardise(rows), units, 16).exp()
    assert torch.trapezoid(density, rows[:, 0]).item() == pytest.approx(1, abs=1e-6)


def test_the_split_is_at_random_and_by_its_generator():
    """Rows that come in order must not be split in order."""
    rows, g = draws(1000).sort(dim=0).values, torch.Generator()
    first, again, other = (split_rows(rows, 0.5, g.manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.held_out, again.held_out)
    assert not torch.equal(first.held_out, other.held_out)
    apart = (first.held_out.mean(0) - first.train.mean(0)) / rows.std(0)
    assert apart.abs().max() < 0.3  # five standard errors


def test_copies_of_a_row_stay_on_one_side():
    rows = draws(60).repeat(3, 1)
    split = split_rows(rows, 0.3, torch.Generator().manual_seed(0))
    sides = [{tuple(row) for row in part.tolist()} for part in (split.train, split.held_out)]
    assert not sides[0] & sides[1]
    assert (len(split.train), len(split.held_out)) == (126, 54)


# Standard errors


def test_the_standard_error_covers_the_truth_as_often_as_it_says():
    entropy = TRUTH.entropy().item()
    inside = 0
    for seed in range(400):
        value, error = estimate(TRUTH.log_prob(draws(200, seed)))
        inside += abs(value + entropy) < 1.96 * error
    assert 0.92 < inside / 400 < 0.975  # 0.95, and three standard errors of the share


def test_the_mass_of_a_density_is_one_within_its_error_as_often_as_it_says():
    rows, inside = draws(500), 0
    proposal = covering(rows, 50, torch.Generator().manual_seed(0))
    for seed in range(300):
        g = torch.Generator().manual_seed(seed)
        mass = total_mass(TRUTH.log_prob, proposal, 400, g)
        assert mass.trusted
        inside += abs(mass.value - 1) < 1.96 * mass.error
    assert 0.91 < inside / 300 < 0.985


def test_the_mass_of_a_flow_sees_the_units_too(split):
    field, units = exact_field(split.units), split.units
    proposal = covering(split.train, 200, torch.Generator().manual_seed(0))

    def density(rows):
        return log_density(field, units.standardise(rows), units, 8)

    mass = total_mass(density, proposal, 2000, torch.Generator().manual_seed(1))
    assert abs(mass.value - 1) < 4 * mass.error < 0.2


def test_half_a_density_has_half_the_mass():
    proposal = covering(draws(500), 50, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    half = total_mass(lambda rows: TRUTH.log_prob(rows) - math.log(2), proposal, 4000, generator)
    assert abs(half.value - 0.5) < 4 * half.error < 0.1


def test_a_proposal_that_is_too_narrow_is_not_trusted():
    """With q four times as narrow the weights have no variance."""
    narrow = GaussianMixture(MEAN[None], (TRUTH.covariance_matrix / 16)[None])
    mass = total_mass(TRUTH.log_prob, narrow, 2000, torch.Generator().manual_seed(0))
    assert not mass.trusted and mass.effective < 100
    wide = covering(draws(500), 50, torch.Generator().manual_seed(0))
    assert total_mass(TRUTH.log_prob, wide, 2000, torch.Generator().manual_seed(0)).trusted


def test_the_effective_number_of_draws_is_that_of_equal_weights():
    mass = total_mass(TRUTH.log_prob, GaussianMixture(MEAN[None], TRUTH.covariance_matrix[None]))
    assert mass.value == pytest.approx(1) and mass.effective == pytest.approx(2000)


def test_the_proposal_is_half_a_wide_gaussian_and_half_bumps():
    rows = draws(300)
    proposal = covering(rows, 100, torch.Generator().manual_seed(0))
    assert len(proposal.means) == 101 and proposal.weights[0] == 0.5
    std = rows.std(0)
    wide = torch.distributions.Normal(rows.mean(0), 2 * std)
    far = rows.mean(0) + 9 * std  # where no bump reaches
    expected = wide.log_prob(far).sum() + math.log(0.5)
    assert proposal.log_prob(far[None]).item() == pytest.approx(expected.item(), abs=1e-6)
    bumps = proposal.covariances[1:].diagonal(dim1=1, dim2=2).sqrt() / std
    assert torch.allclose(bumps, torch.full_like(bumps, 100 ** (-1 / 7)))


# Steps


def test_enough_steps_are_found_and_said(split):
    field, units = exact_field(split.units), split.units
    x = units.standardise(split.held_out)
    table = enough_steps(lambda steps: log_density(field, x, units, steps), start=1)
    assert [row.steps for row in table] == [2**k for k in range(len(table))]
    assert abs(table[-1].change) < 0.1 * table[-1].error <= abs(table[-2].change) or len(table) == 2
    truth = TRUTH.log_prob(split.held_out)
    assert abs(table[-1].value - truth.mean().item()) < 0.1 * table[-1].error
    assert table[-1].error == pytest.approx(truth.std().item() / math.sqrt(500), rel=0.02)


def test_the_rule_of_the_steps_is_a_tenth_of_the_error():
    """Log-densities off by 1/steps, with a standard error of 0.1."""
    spread = torch.tensor([-1.0, 1.0], **DOUBLE).repeat(50) * math.sqrt(99) / 10
    table = enough_steps(lambda steps: spread + 1 / steps)
    assert table[0].error == pytest.approx(0.1)
    # 1/steps − 2/steps is below 0.01 from 128 steps on
    assert [row.steps for row in table] == [2, 4, 8, 16, 32, 64, 128]
    assert math.isnan(table[0].change) and table[1].change == pytest.approx(-0.25)


def test_steps_that_never_settle_are_refused():
    with pytest.raises(ValueError, match="16 steps still change"):
        enough_steps(lambda steps: torch.linspace(0, 1, 9) + steps, most=20)


def test_so_many_steps_are_taken_as_are_asked_for(split):
    field, units = exact_field(split.units), split.units
    x, times = units.standardise(split.held_out[:5]), torch.linspace(1, 0, 4, **DOUBLE)
    with torch.no_grad():
        three = log_likelihood(field, x, Gaussian(torch.zeros(3, **DOUBLE)), times)
    assert torch.allclose(log_density(field, x, units, 3) + units.log_volume, three, atol=1e-12)


# Copies


def clouds():
    """Three independent draws of the same law."""
    sizes = (1000, 999, 998)
    return [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in sizes]


def test_fresh_rows_are_as_near_as_rows_held_out():
    parts = [
        torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (1000, 999, 998)
    ]
    found = nearest_ratio(*parts)
    assert abs(found.value - 1) < 4 * found.error < 0.2
    assert 0.002 < found.close < 0.03


def test_copies_are_seen_and_a_few_of_them_too():
    parts = [
        torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (1000, 999, 998)
    ]
    samples, train, held_out = parts
    noise = 1e-3 * torch.randn(998, 3, generator=torch.Generator().manual_seed(0))
    assert nearest_ratio(train[:998] + noise, train, held_out).value < 0.02
    few = torch.cat([samples[:950], train[:50]])
    found = nearest_ratio(few, train, held_out)
    assert found.value > 0.9 and found.close > 0.05


def test_the_error_of_the_ratio_covers_one():
    inside = 0
    for seed in range(100):
        x = torch.randn(400, 2, generator=torch.Generator().manual_seed(seed))
        found = nearest_ratio(x[:100], x[100:300], x[300:])
        inside += abs(found.value - 1) < 1.96 * found.error
    assert 0.87 < inside / 100


# Reading


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def lines(n=30):
    return [f"{0.5 * i},{i * i}" for i in range(n)]


def test_a_csv_is_read_as_it_is_written(tmp_path):
    file = write(tmp_path / "fish.CSV", '"length, m", mass', *lines(), "", *lines(4)[2:])
    table = read_table(file)
    assert table.names == ("length, m", "mass") and table.duplicates == 2
    assert table.rows.dtype == torch.float64 and table.rows.shape == (32, 2)
    assert table.rows[3].tolist() == [1.5, 9.0]
    bytes_of_excel = b"\xef\xbb\xbf" + file.read_bytes()
    (tmp_path / "excel.csv").write_bytes(bytes_of_excel.replace(b"\n", b"\r\n"))
    assert read_table(tmp_path / "excel.csv").names == ("length, m", "mass")


@pytest.mark.parametrize("kind", ["float32", "int16", "uint8"])
def test_an_array_is_read_as_it_is_saved(tmp_path, kind):
    rows = np.arange(60).reshape(30, 2).astype(kind)
    np.save(tmp_path / "rows.npy", rows)
    table = read_table(str(tmp_path / "rows.npy"))
    assert table.names == ("column 1", "column 2") and table.duplicates == 0
    assert table.rows.tolist() == rows.tolist()


BAD = {
    "is empty": [],
    "the first line must name": lines(),
    "word of its own": ["a,a", *lines()],
    "separated by semicolons": ["a;b", *[line.replace(",", ";") for line in lines()]],
    "no number.*leave the column out": ["a,kind", *[f"{i},cod" for i in range(30)]],
    "line 3 has 3 cells, line 1 2": ["a,b", "1,2", "1,2,3", *lines()],
    r"missing in line 3, column b \(rows with a gap: 2\)": ["a,b", "1,2", "1,", "NaN,2", *lines()],
    "b is '1_000' in line 3, no number": ["a,b", "1,2", "1,1_000", *lines()],
    "b is inf in row 2": ["a,b", "1,2", "1,inf", *lines()],
    "same value in all rows of b": ["a,b", *[f"{i},7" for i in range(30)]],
    "has 12 rows; at least 20": ["a,b", *lines(12)],
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_file_gets_a_clear_line(tmp_path, message):
    with pytest.raises(ValueError, match=f"(?s)bad.csv.*{message}"):
        read_table(write(tmp_path / "bad.csv", *BAD[message]))


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="UTF-8"):
        (tmp_path / "bad.csv").write_bytes(b"gr\xf6\xdfe,b\n1,2\n")
        read_table(tmp_path / "bad.csv")
    with pytest.raises(ValueError, match="does not end in"):
        read_table(tmp_path / "rows.xlsx")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")
    for name, array in {
        "objects": np.array([{}, {}]),
        "vector": np.arange(30.0),
        "words": np.array([["a"], ["b"]]),
        "complex": np.ones((30, 2), complex),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ValueError, match=rf"{name}\.npy .*numbers"):
            read_table(tmp_path / f"{name}.npy")
    rows = np.arange(60.0).reshape(30, 2)
    rows[4, 1] = math.nan
    np.save(tmp_path / "gaps.npy", rows)
    with pytest.raises(ValueError, match=r"missing in row 5, column 2 \(rows with a gap: 1\)"):
        read_table(tmp_path / "gaps.npy")


class Trap:
    """Makes a file when it is read as a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_in_a_file_is_run(tmp_path):
    np.save(tmp_path / "trap.npy", np.array([Trap(tmp_path / "sprung")]), allow_pickle=True)
    with pytest.raises(ValueError, match="no array of numbers"):
        read_table(tmp_path / "trap.npy")
    assert not (tmp_path / "sprung").exists()


def test_a_column_that_changes_only_in_the_rows_held_out_is_refused():
    rows = draws(40)
    rows[:, 1] = 0
    rows[7, 1] = 1
    generator = torch.Generator()
    with pytest.raises(ValueError, match="column 2 does not change among the training rows"):
        for seed in range(50):
            split_rows(rows, 0.5, generator.manual_seed(seed))
