"""A module whose completions share prefixes, and a slow, obvious account of their trees."""

import statistics

import torch

from tests.callbacks.boring import TOKENS, BoringPolicy

ROWS = 40
GROUP_SIZE = 4


class TreePolicy(BoringPolicy):
    """Completions over two tokens, in groups of four rows of one parity.

    Rows are dealt to ranks by parity, so with one and with two processes a group is on one rank.
    """

    def __init__(self, rows=24, batch_size=2, **options):
        super().__init__(rows=ROWS, batch_size=batch_size, **options)
        self.rows = rows  # of the tables, so many are trained on
        random = torch.Generator().manual_seed(1)
        self.completion_ids = torch.randint(1, 3, (ROWS, TOKENS), generator=random)
        self.completion_ids[8:16, 0] = torch.arange(8) + 10  # the two groups of rows 8-15 are flat
        self.group = torch.arange(ROWS) // 8 * 2 + torch.arange(ROWS) % 2
        self.rewards = torch.randint(0, 3, (ROWS,), generator=random) / 2
        self.rewards[self.group == 1] = 0.5  # nothing to learn
        self.set_sizes = torch.zeros(ROWS, TOKENS, dtype=torch.long)
        for row in range(ROWS):
            for position in range(int(self.lengths[row])):
                self.set_sizes[row, position] = len(self.process_set(row, position))

    def process_set(self, row, position):
        """The rows of the group that share this one through ``position``, by definition."""
        rows = (self.group == self.group[row]).nonzero().flatten().tolist()
        mine = self.completion_ids[row, : position + 1].tolist()
        return [
            other
            for other in rows
            if self.lengths[other] > position
            and self.completion_ids[other, : position + 1].tolist() == mine
        ]

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        outputs |= {
            "set_sizes": self.set_sizes[batch],
            "group": self.group[batch],
            "group_size": GROUP_SIZE,
            "completion_ids": self.completion_ids[batch],
            "token_texts": [
                [f"<{token}>" for token in self.completion_ids[row, : self.lengths[row]].tolist()]
                for row in batch.tolist()
            ],
        }
        return self._without(outputs | self.extra)


def tree_figures(module, rows, finished_groups):
    """What is logged of an optimizer step, by loops over tokens.

    Args:
        module: the module.
        rows: the completions of the step.
        finished_groups: the groups whose last completion is among them.
    """
    tokens = [(row, t) for row in rows for t in range(int(module.lengths[row]))]
    sizes = {place: len(module.process_set(*place)) for place in tokens}
    advantage = {row: abs(module.advantages[row].item()) for row in rows}
    depths, shared = [], []
    for row in rows:
        sets = [frozenset(module.process_set(row, t)) for t in range(int(module.lengths[row]))]
        depths.append(len(set(sets)))
        shared.append(statistics.mean(len(members) > 1 for members in sets))
    members = {g: (module.group == g).nonzero().flatten().tolist() for g in finished_groups}
    flat = [
        all(module.set_sizes[row].max() <= 1 for row in members[group]) for group in finished_groups
    ]
    equal = [
        len({module.rewards[row].item() for row in members[group]}) == 1
        for group in finished_groups
    ]
    grpo = sum(advantage[row] for row, _ in tokens)
    figures = {
        "tree/path_depth": statistics.mean(depths),
        "tree/intermediate_proportion": statistics.mean(shared),
        "tree/set_size": statistics.mean(sizes.values()),
        "tree/unique_tokens": sum(1 / size for size in sizes.values()) / len(tokens),
        "tree/weight_removed": 1
        - sum(advantage[place[0]] / sizes[place] for place in tokens) / grpo,
    }
    if finished_groups:
        figures["tree/flat_groups"] = statistics.mean(flat)
        figures["tree/zero_variance_groups"] = statistics.mean(equal)
    return figures


def outputs_of(rows, rewards, advantages, **more):
    """A training step's output for completions given as lists of token ids."""
    size = len(rows)
    mask = torch.zeros(size, max(map(len, rows), default=0), dtype=torch.bool)
    ids, sizes = torch.zeros(mask.shape, dtype=torch.long), torch.zeros(mask.shape)
    for number, row in enumerate(rows):
        mask[number, : len(row)] = True
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        for end in range(1, len(row) + 1):
            sizes[number, end - 1] = sum(other[:end] == row[:end] for other in rows)
    return {
        "completion_ids": ids,
        "mask": mask,
        "set_sizes": sizes.long(),
        "rewards": torch.tensor(rewards),
        "advantages": torch.tensor(advantages),
        "group": torch.zeros(size, dtype=torch.long),
        "group_size": size,
        "token_texts": [[f"{token}." for token in row] for row in rows],
        "prompts": ["p"] * size,
        "lengths": mask.sum(dim=1),
        "truncated": torch.zeros(size, dtype=torch.bool),
        **more,
    }
