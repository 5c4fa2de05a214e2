/** One plugin a concern. `core` and `cells` are what the others share; other extensions may ask for them too. */
import { cells } from './plugins/cells';
import { commands } from './plugins/commands';
import { companions } from './plugins/companions';
import { core } from './plugins/core';
import { keys } from './plugins/keys';
import { launcher } from './plugins/launcher';
import { notifications } from './plugins/notifications';
import { panel } from './plugins/panel';
import { pods } from './plugins/pods';
import { scaling } from './plugins/scaling';
import { settings } from './plugins/settings';
import { statusbar } from './plugins/statusbar';
import { switching } from './plugins/switching';

export { ICells, INbgpu, IPresentation } from './tokens';

export default [
  core, cells, settings, commands, scaling, keys, pods, switching, companions, panel, launcher, statusbar,
  notifications
];
