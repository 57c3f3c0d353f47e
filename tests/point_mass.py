"""A field whose solutions are known on every schedule."""


def point_mass(schedule, point):
    """The velocity of a path to one point: v = α̇ c + (σ̇/σ)(x − α c)."""

    def field(x, t):
        alpha, sigma, alpha_dot, sigma_dot = (
            f(t).reshape(-1, *[1] * (x.ndim - 1))
            for f in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)
        )
        return alpha_dot * point + sigma_dot / sigma * (x - alpha * point)

    return field
