// Stochastic paths with the densities of the ODE, as fmtutorial.diffusion. Chapter 7.

/** The score from a velocity of the path, where σ is not 0 and α is not 0 or its derivative is. */
export function scoreOf(schedule, velocity, x, t) {
  const alpha = schedule.alpha(t);
  const sigma = schedule.sigma(t);
  const alphaDot = schedule.alphaDot(t);
  const sigmaDot = schedule.sigmaDot(t);
  // x̂₀ = (α v − α̇ x) / (α σ̇ − α̇ σ), and the score is −x̂₀ / σ
  const bottom = alpha * sigmaDot - alphaDot * sigma;
  return velocity.map((v, i) => -(alpha * v - alphaDot * x[i]) / (bottom * sigma));
}

/**
 * One step of dx = [v + pull · w²/2 · ∇log p] dt + w dW after Euler and Maruyama, with the given
 * normal noise. With a pull of 1 the densities are those of the ODE; with any other they are not.
 */
export function sdeStep(field, schedule, x, t, h, noiseLevel, noise, pull = 1) {
  const v = field(x, t);
  const out = x.map((value, i) => value + h * v[i]);
  if (noiseLevel === 0) return out;
  const score = scoreOf(schedule, v, x, t);
  const size = Math.abs(h);
  for (let i = 0; i < out.length; i++) {
    out[i] += ((pull * size * noiseLevel ** 2) / 2) * score[i];
    out[i] += noiseLevel * Math.sqrt(size) * noise[i];
  }
  return out;
}
