/** The voice and the role that a session is asked to begin with; an empty one is left to the server. */

/** The fields of `configure` for a persona. */
export function configureFields({ voice, role }) {
  return { ...(voice ? { voice } : {}), ...(role ? { role } : {}) };
}

/** Whether `ready` is that of a session which begins with what was asked for. */
export function hasPersona(ready, { voice, role }) {
  return (!voice || ready.voice === voice) && (!role || ready.role === role);
}
