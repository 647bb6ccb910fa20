/** The URL of something on this server, which may be behind a proxy with a path prefix. */

const ROOT = new URL("../../../", import.meta.url); // above static/<version>/voice/

export const serverUrl = (path) => new URL(path, ROOT).href;
