"""One denoising step on the CPU in one pass: the default sampler without torch's per-call cost.

Computes exactly what `Sampler` computes with `EntropyBoundReveal` or `CountReveal`, an order by
distribution or position, no remasking, and no truncation but Holtzman's nucleus;
`tests/diffusion/test_fused.py` holds the two against each other. Row by row it tempers, draws,
sorts, reveals, closes after END and notes which rows are finished.
"""

import numpy as np
from numba import njit

from remdm.diffusion import draws

RANDOM, POSITION, MAX_PROB, MARGIN, ENTROPY = range(5)

_GOLDEN = np.uint64(draws.GOLDEN)
_MIX_1 = np.uint64(draws.MIX_1)
_MIX_2 = np.uint64(draws.MIX_2)
_TOKEN = draws.TOKEN
_POSITION = draws.POSITION
_NUM_PURPOSES = draws.NUM_PURPOSES


@njit(cache=True, inline="always")
def _uniform(key: np.uint64, counter: int) -> float:
    """See `remdm.diffusion.draws.uniform`."""
    state = key + np.uint64(counter) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    state = (state ^ (state >> np.uint64(31))) >> np.uint64(12)
    return (np.float64(state) + 0.5) * 2.0**-52


@njit(cache=True)
def _keep_nucleus(weights: np.ndarray, total: float, top_p: float) -> float:
    """Set the weights [C] beyond the nucleus to 0; the class that crosses `top_p` stays.

    Equal weights keep the lower class, as in `remdm.diffusion.decode.nucleus`.

    Returns:
        The sum of what is left.
    """
    kept = 0.0
    last, last_class = np.inf, -1
    while kept < top_p * total:
        best = -1
        for c in range(weights.shape[0]):
            after = weights[c] < last or (weights[c] == last and c > last_class)
            if after and weights[c] > 0.0 and (best < 0 or weights[c] > weights[best]):
                best = c
        if best < 0:
            break
        last, last_class = weights[best], best
        kept += last
    for c in range(weights.shape[0]):
        if weights[c] < last or (weights[c] == last and c > last_class):
            weights[c] = 0.0
    return kept


@njit(cache=True)
def _decode(
    logits: np.ndarray,
    barred: np.ndarray,
    inverse_temperature: float,
    top_p: float,
    greedy: bool,
    uniform: float,
    weights: np.ndarray,
) -> tuple[int, float, float, float, float]:
    """Chosen class, its log-probability, best probability, margin and entropy of one position.

    `weights` [C] is scratch space. The log-probability is NaN when the logits hold one.
    """
    num_classes = logits.shape[0]
    largest = -np.inf
    for c in range(num_classes):
        scaled = -np.inf if barred[c] else np.float64(logits[c]) * inverse_temperature
        weights[c] = scaled
        # A NaN must win here, and every comparison with it is false.
        if not scaled <= largest:
            largest = scaled
    total = 0.0
    for c in range(num_classes):
        weights[c] = np.exp(weights[c] - largest)
        total += weights[c]
    if top_p < 1.0 and np.isfinite(total):
        total = _keep_nucleus(weights, total, top_p)
    moment = 0.0
    best = 0
    second = 0.0
    for c in range(num_classes):
        weight = weights[c]
        if weight > 0.0:
            moment += weight * (np.float64(logits[c]) * inverse_temperature - largest)
        if c > 0:
            if weight > weights[best]:
                second = weights[best]
                best = c
            elif weight > second:
                second = weight
    chosen = best
    if not greedy:
        threshold = uniform * total
        cumulative = weights[0]
        chosen = 0
        while cumulative <= threshold and chosen < num_classes - 1:
            chosen += 1
            cumulative += weights[chosen]
    log_total = np.log(total)
    log_prob = np.log(weights[chosen]) - log_total
    entropy = log_total - moment / total
    return chosen, log_prob, weights[best] / total, (weights[best] - second) / total, entropy


@njit(cache=True)
def _num_revealed(
    entropies: np.ndarray, positions: np.ndarray, num_masked: int, gamma: float
) -> int:
    """Length of the longest prefix of `positions` within the entropy bound."""
    total = 0.0
    largest = 0.0
    for n in range(num_masked):
        entropy = entropies[positions[n]]
        total += entropy
        largest = max(largest, entropy)
        if total - largest > gamma:
            return n
    return num_masked


@njit(cache=True)
def _decode_row(
    logits: np.ndarray,
    tokens: np.ndarray,
    key: np.uint64,
    barred_first: np.ndarray,
    barred: np.ndarray,
    index: int,
    inverse_temperature: float,
    top_p: float,
    greedy: bool,
    order: int,
    split: int,
    classes: np.ndarray,
    chosen_log: np.ndarray,
    entropies: np.ndarray,
    positions: np.ndarray,
    scratch: np.ndarray,
) -> int:
    """Choose a class for every masked position of a row and sort these positions.

    Positions before `split` come first, then the higher score, then the lower position.
    `scratch` is [H + C]; `classes`, `chosen_log`, `entropies` and `positions` [H] are outputs.

    Returns:
        Number of masked positions, or -1 if the logits of one are not finite.
    """
    horizon, num_classes = logits.shape
    mask = num_classes - 1
    scores = scratch[:horizon]
    weights = scratch[horizon:]
    first_counter = index * _NUM_PURPOSES * horizon + 1
    num_masked = 0
    for h in range(horizon):
        if tokens[h] != mask:
            continue
        classes[h], chosen_log[h], best, margin, entropies[h] = _decode(
            logits[h],
            barred_first if h == 0 else barred,
            inverse_temperature,
            top_p,
            greedy,
            _uniform(key, first_counter + _TOKEN * horizon + h),
            weights,
        )
        if not np.isfinite(chosen_log[h]):
            return -1
        if order == ENTROPY:
            scores[h] = -entropies[h]
        elif order == MARGIN:
            scores[h] = margin
        elif order == MAX_PROB:
            scores[h] = best
        elif order == RANDOM:
            scores[h] = _uniform(key, first_counter + _POSITION * horizon + h)
        else:
            scores[h] = -np.float64(h)
        n = num_masked
        while n > 0:
            other = positions[n - 1]
            same_side = (other < split) == (h < split)
            if (same_side and scores[other] >= scores[h]) or (not same_side and h >= split):
                break
            positions[n] = other
            n -= 1
        positions[n] = h
        num_masked += 1
    return num_masked


@njit(cache=True)
def _close_after_end(tokens: np.ndarray, free: np.ndarray, log_probs: np.ndarray, end: int) -> None:
    """Turn every free token after the first END into END."""
    ended = False
    for h in range(tokens.shape[0]):
        if ended and free[h]:
            tokens[h] = end
            log_probs[h] = 0.0
        elif tokens[h] == end:
            ended = True


@njit(cache=True)
def step(
    logits: np.ndarray,
    tokens: np.ndarray,
    free: np.ndarray,
    log_probs: np.ndarray,
    keys: np.ndarray,
    done: np.ndarray,
    nfe: np.ndarray,
    masked_share: np.ndarray,
    barred_first: np.ndarray,
    barred: np.ndarray,
    index: int,
    inverse_temperature: float,
    top_p: float,
    greedy: bool,
    order: int,
    gamma: float,
    alpha_s: float,
    split: int,
    window: int,
    exit_early: bool,
    close_after_end: bool,
) -> tuple[int, int]:
    """Advance every row that is not done, in place.

    Args:
        logits: float32 [b, H, C].
        tokens: int64 [b, H], changed.
        free: bool [b, H].
        log_probs: float64 [b, H], changed.
        keys: uint64 [b].
        done: bool [b], changed.
        nfe: int64 [b], changed.
        masked_share: float32 [b], out: share of free positions that are still MASK.
        barred_first: bool [b or 1, C]: classes that position 0 may not take.
        barred: bool [C]: classes that no position may take.
        index: Number of the step.
        inverse_temperature: 1 / temperature.
        top_p: Probability of the nucleus, the class that crosses it included; 1 keeps all classes.
        greedy: Take the likeliest class.
        order: One of the codes of this module.
        gamma: Entropy bound in nats; negative to reveal by count.
        alpha_s: Share of free positions visible after this step, when revealing by count.
        split: Positions before this one are decided first; 0 for no precedence.
        window: A row is finished when positions before this one are decided.
        exit_early: Whether finished rows are done; their open positions take the classes drawn
            last.
        close_after_end: Whether END closes the plan at once.

    Returns:
        Number of rows not done; and the first row with logits that are not finite, or -1.
    """
    num_rows, horizon, num_classes = logits.shape
    mask = num_classes - 1
    classes = np.empty(horizon, np.int64)
    chosen_log = np.empty(horizon, np.float64)
    entropies = np.empty(horizon, np.float64)
    positions = np.empty(horizon, np.int64)
    scratch = np.empty(horizon + num_classes, np.float64)
    last_bar = len(barred_first) - 1
    active = 0
    for b in range(num_rows):
        masked_share[b] = 0.0
        if done[b]:
            continue
        nfe[b] += 1
        num_masked = _decode_row(
            logits[b], tokens[b], keys[b], barred_first[min(b, last_bar)], barred, index,
            inverse_temperature, top_p, greedy, order, split,
            classes, chosen_log, entropies, positions, scratch,
        )  # fmt: skip
        if num_masked < 0:
            return active, b
        if gamma >= 0.0:
            num_revealed = _num_revealed(entropies, positions, num_masked, gamma)
        else:
            num_free = free[b].sum()
            target = np.int64(np.floor(num_free * alpha_s + 0.5))
            num_revealed = min(max(target - (num_free - num_masked), 0), num_masked)
        for n in range(num_revealed):
            h = positions[n]
            tokens[b, h] = classes[h] + (classes[h] == mask)
            log_probs[b, h] = chosen_log[h]
        if close_after_end:
            _close_after_end(tokens[b], free[b], log_probs[b], num_classes)
        if exit_early and not (tokens[b, :window] == mask).any():
            done[b] = True
            for h in range(window, horizon):
                if tokens[b, h] == mask:
                    tokens[b, h] = classes[h] + (classes[h] == mask)
        else:
            active += 1
            masked_share[b] = (tokens[b] == mask).sum() / free[b].sum()
    return active, -1


@njit(cache=True)
def finish(
    tokens: np.ndarray,
    free: np.ndarray,
    log_probs: np.ndarray,
    end: int,
    lengths: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Close every plan after its first END; write its length and the sum of its log-probs."""
    for b in range(tokens.shape[0]):
        _close_after_end(tokens[b], free[b], log_probs[b], end)
        length = 0
        while length < tokens.shape[1] and tokens[b, length] != end:
            length += 1
        lengths[b] = length
        totals[b] = log_probs[b].sum()
