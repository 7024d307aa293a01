"""Standard errors, intervals and plans, on tables with a known answer."""

import numpy as np
import pytest
from scipy.stats import t

from eqcifar import sharpness
from eqcifar.errors import UsageError

RNG = np.random.default_rng(0)


def covers(estimates, truth):
    hits = [e.interval()[0] <= truth <= e.interval()[1] for e in estimates]
    return np.mean(hits)


def test_interval_is_the_t_interval():
    values = np.tile([[-1.0], [1.0], [0.0], [0.0]], (8, 1))  # skewness 0, kurtosis 2
    got = sharpness.estimate_mean(values, exact=True, target="population")
    expected = t.interval(0.9, 31, values.mean(), values.std(ddof=1) / 32**0.5)
    np.testing.assert_allclose(got.interval(0.9), expected)
    assert got.half_width(0.9) == pytest.approx((expected[1] - expected[0]) / 2)
    assert got.probe_error == 0
    assert got.probes == 0


def test_a_skewed_interval_inverts_halls_transformation():
    e = sharpness.Estimate(5.0, 2.0, probe_freedom=9.0, skewness=0.6)
    distance = (5.0 - np.asarray(e.interval())) / 2.0
    symmetric = distance + 0.6 * (2 * distance**2 + 1) / 6 + 0.6**2 * distance**3 / 27
    np.testing.assert_allclose(symmetric, [t.ppf(0.975, 9), t.ppf(0.025, 9)])
    mirrored = e.scale(-1.0)
    assert mirrored.interval() == pytest.approx([-x for x in e.interval()[::-1]])


def test_moments_of_the_error_are_those_of_the_terms():
    values = RNG.gamma(1.0, size=(4000, 1))  # skewness 2, kurtosis 9
    got = sharpness.estimate_mean(values, exact=True, target="population")
    assert got.skewness == pytest.approx(2 / 4000**0.5, rel=0.25)
    assert got.data_freedom == pytest.approx(2 * 4000 / 8, rel=0.4)
    whole = sharpness.estimate_mean(values, exact=True, population=8000)
    assert whole.skewness == 0  # half of a split is as skewed as the other half
    probes = sharpness.estimate_mean(values.reshape(4, 1000))
    assert probes.skewness == pytest.approx(2 / 4000**0.5, rel=0.25)


@pytest.mark.parametrize("draw", ["one eigenvalue", "few images"])
def test_intervals_of_skewed_terms_hold_the_truth(draw):
    hits = []
    for _ in range(1000):
        if draw == "one eigenvalue":
            terms = RNG.chisquare(1, size=(1, 12))
            guess = sharpness.estimate_mean(terms)
        else:
            terms = RNG.gamma(0.25, 4.0, size=(50, 1))
            guess = sharpness.estimate_mean(terms, exact=True, target="population")
        hits.append(guess)
    assert 0.925 <= covers(hits, 1.0) <= 0.975


def test_a_split_seen_whole_has_no_data_error():
    values = RNG.normal(size=(30, 1))
    whole = sharpness.estimate_mean(values, exact=True)
    assert whole.standard_error == 0
    part = sharpness.estimate_mean(values, exact=True, population=120)
    population = sharpness.estimate_mean(values, exact=True, target="population")
    np.testing.assert_allclose(
        part.data_error, population.data_error * (1 - 30 / 120) ** 0.5
    )


def test_one_probe_and_one_group_admit_ignorance():
    one = sharpness.estimate_mean(np.ones((4, 1)), groups=np.zeros(4, int))
    assert one.interval() == (-np.inf, np.inf)
    single = sharpness.estimate_mean(np.ones((1, 1)), exact=True, target="population")
    assert single.standard_error == np.inf


def table(n, m, batch, *, main, data, mixed):
    """Probes shared in a batch: a main effect, a data effect and the rest."""
    groups = np.arange(n) // batch
    shared = main * RNG.normal(size=(groups[-1] + 1, m))[groups]
    own = data * RNG.normal(size=(n, 1))
    return 10 + shared + own + mixed * RNG.normal(size=(n, m)), groups, 10 + own.mean()


@pytest.mark.parametrize("probes", [2, 4])
@pytest.mark.parametrize("batch", [1, 10])
def test_intervals_hold_the_split_and_the_population(probes, batch):
    split, population = [], []
    for _ in range(400):
        values, groups, truth = table(205, probes, batch, main=1, data=2, mixed=3)
        whole = sharpness.estimate_mean(values, groups=groups)
        split.append(whole.shift(-truth))
        population.append(
            sharpness.estimate_mean(values, groups=groups, target="population")
        )
    assert 0.92 <= covers(split, 0.0) <= 0.98
    assert 0.92 <= covers(population, 10.0) <= 0.98
    spread = np.std([e.value for e in split])
    parts = [np.mean([e.probe_error for e in split])]
    np.testing.assert_allclose(parts, spread, rtol=0.15)
    assert abs(np.mean([e.data_error for e in population]) / (2 / 205**0.5) - 1) < 0.1


def test_one_probe_gives_a_safe_interval():
    split = []
    for _ in range(300):
        values, groups, truth = table(200, 1, 10, main=1, data=2, mixed=3)
        split.append(sharpness.estimate_mean(values, groups=groups).shift(-truth))
    assert covers(split, 0.0) >= 0.93


def test_scaling_and_shifting():
    e = sharpness.Estimate(2.0, 0.3, 0.4)
    assert e.standard_error == pytest.approx(0.5)
    assert e.scale(-2.0).value == -4
    assert e.scale(-2.0).standard_error == pytest.approx(1.0)
    assert e.shift(1.0).value == 3
    assert e.shift(1.0).standard_error == e.standard_error


def test_ratio_by_the_delta_method():
    rng = np.random.default_rng(1)
    a, b = sharpness.Estimate(4.0, 0.1, 0.2), sharpness.Estimate(2.0, 0.05, 0.1)
    got = sharpness.ratio(a, b)
    draws = rng.normal(4, a.standard_error, 40000) / rng.normal(
        2, b.standard_error, 40000
    )
    assert got.value == 2
    np.testing.assert_allclose(got.standard_error, draws.std(), rtol=0.03)
    with pytest.raises(UsageError, match="zero"):
        sharpness.ratio(a, b.scale(0.0))


def test_variances_recover_the_components():
    n, m = 400, 60
    values = (
        10
        + 1.0 * RNG.normal(size=(1, m))
        + 2.0 * RNG.normal(size=(n, 1))
        + 3.0 * RNG.normal(size=(n, m))
    )
    got = sharpness.variances(values)
    square = got.mean**2
    np.testing.assert_allclose(got.data * square, 4, rtol=0.2)
    np.testing.assert_allclose(got.mixed * square, 9, rtol=0.1)
    np.testing.assert_allclose(got.probe * square, 1, rtol=0.5)
    with pytest.raises(UsageError, match="pilot"):
        sharpness.variances(values[:1])


@pytest.mark.parametrize("fresh", ["exact", "example", "batch"])
def test_a_plan_reaches_what_it_promises(fresh):
    pilot = sharpness.Variances(10.0, 0.01, 0.5, 0.2)
    plan = sharpness.plan(pilot, 0.05, 5000, fresh=fresh, batch=10)
    assert plan.reached <= 0.05
    batch = {"exact": 1, "example": 1, "batch": 10}[fresh]
    errors = []
    population = 10 + 10 * 0.5**0.5 * RNG.normal(size=5000)
    for _ in range(200):
        ids = RNG.choice(5000, plan.examples, replace=False)
        values = population[ids]
        if fresh != "exact":
            groups = np.arange(plan.examples) // batch
            noise = RNG.normal(size=(groups[-1] + 1, plan.probes))[groups]
            own = RNG.normal(size=(plan.examples, plan.probes))
            values = values + (1.0 * noise + 10 * 0.2**0.5 * own).mean(1)
        errors.append(values.mean() - population.mean())
    assert np.std(errors) * 1.96 <= 0.05 * 10 * 1.15
    assert np.std(errors) * 1.96 >= 0.05 * 10 * 0.75


def test_a_plan_says_when_it_cannot():
    pilot = sharpness.Variances(10.0, 0.5, 0.5, 0.2)
    with pytest.raises(UsageError, match="not even all 100"):
        sharpness.plan(pilot, 1e-4, 100, fresh="none", most_probes=10)
    exact = sharpness.plan(pilot, 1e-4, 100, fresh="exact")
    assert (exact.examples, exact.probes) == (100, 0)


def test_the_sequential_stop_meets_its_target():
    met = []
    for _ in range(300):
        terms, stop, mean = RNG.gamma(10.0, size=4000), sharpness.Stop(0.05), 0.0
        for k in range(4, 4000, 4):
            mean = terms[:k].mean()
            error = terms[:k].std(ddof=1) / k**0.5
            sofar = sharpness.Estimate(mean, error, probe_freedom=k - 1.0)
            if stop.now(sofar, k):
                break
        met.append(abs(mean / 10 - 1) <= 0.05)
    assert np.mean(met) >= 0.92
