// Loaded before npm (NODE_OPTIONS=--require): its client of Sigstore's root of trust finds nothing, so that `npm audit signatures` takes
// the registry's own keys, as it does for every registry that root does not name. The real one asks the network before it says so.
"use strict";

const Module = require("node:module");
const load = Module._load;

Module._load = function (request, ...rest) {
  if (request !== "@sigstore/tuf") return load.call(this, request, ...rest);
  const getTarget = async (name) => {
    throw Object.assign(new Error(`no target ${name}`), { code: "TUF_FIND_TARGET_ERROR" });
  };
  return { ...load.call(this, request, ...rest), initTUF: async () => ({ getTarget }) };
};
