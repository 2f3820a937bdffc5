"""Best of several: of the chunks that a policy draws, the one that goes on best with what is done.

Backward coherence of Bidirectional Decoding (arXiv 2408.17355), with the weights of Real-Time
Chunking; for policies that draw from noise, above all those that cannot continue rows themselves.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from policy_server.policy import ActionChunk, Policy, PolicyRequest, PolicyUnavailable
from policy_server.rtc import mismatch
from policy_server.scheduler import unusable
from policy_server.self_test import answers, probe

MOST = 8
"""Samples: so many of one request fit into one batch of every back end."""
BEST_OF = "best_of"
"""How such a policy continues rows, in its spec."""


class BestOf:
    """Asks a policy several times at once, and answers what fits the committed rows best.

    A request without committed rows is asked once: there is nothing to fit.
    """

    def __init__(self, policy: Policy, *, samples: int) -> None:
        """Draw `samples` chunks a request from `policy`."""
        self._policy, self._samples = policy, samples
        self.spec = replace(policy.spec, rtc=(*policy.spec.rtc, BEST_OF))

    def infer_batch(self, requests: Sequence[PolicyRequest]) -> list[ActionChunk]:
        """Return one chunk a request, in the same order; a request that is wrong fails alone."""
        counts = [self._samples if request.committed else 1 for request in requests]
        drawn = iter(
            self._policy.infer_batch(
                [
                    replace(request, draw=draw)
                    for request, count in zip(requests, counts, strict=True)
                    for draw in range(count)
                ]
            )
        )
        return [
            best(request, [next(drawn) for _ in range(count)])
            for request, count in zip(requests, counts, strict=True)
        ]


def best(request: PolicyRequest, chunks: Sequence[ActionChunk]) -> ActionChunk:
    """Return the chunk that goes on best with a request's committed rows.

    One that no arm should carry out is chosen where all are like that: its refusal is the answer.
    """
    committed = request.committed
    if committed is None:
        return chunks[0]
    width = committed.rows.shape[-1]
    sound = [chunk for chunk in chunks if not unusable(chunk, width)]
    return min(
        sound or chunks[:1],
        key=lambda chunk: mismatch(committed.rows, chunk.actions, delay=committed.delay),
    )


def best_of(policy: Policy, samples: int) -> Policy:
    """Return a policy that answers the best of so many samples; one sample is the policy itself.

    Raise `PolicyUnavailable` for a policy that answers the same however often it is asked.
    """
    if samples == 1:
        return policy
    if not 1 <= samples <= MOST:
        raise PolicyUnavailable(f"samples={samples}; expected from 1 to {MOST}")
    one, other = answers(policy, [replace(probe(policy.spec), draw=draw) for draw in range(2)])
    # Rows of a batch may differ by rounding alone.
    if one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-3):
        raise PolicyUnavailable(
            f"samples={samples} needs a policy that draws its answers: this one gives the same "
            "answer to the same question; serve it with samples=1"
        )
    return BestOf(policy, samples=samples)
